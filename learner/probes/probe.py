"""How good a frozen representation is: nearest neighbours and a linear classifier on a labelled control set. Pure.

k-NN follows DINO (Caron et al. 2021, arXiv:2104.14294, eval_knn.py of facebookresearch/dino): cosine, k = 20, votes
weighted by exp(similarity / 0.07); `knn_10pct` is the seed's protocol: the same, its bank a stratified 10 % of train.
The linear classifier is ridge regression on standardised features, its strength chosen by leave-one-out: closed form,
so deterministic, and 0.3 s for 10k x 192 and ten classes on one core, where DINO trains a layer for a hundred epochs.

Shapes: B batch, N train features, M test features, D their width, C classes, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from learner.probes.control_sets import ControlSet, stratified, subset
from learner.probes.packed_files import Labels
from learner.probes.spectrum import alpha_req, rankme
from stream.image import Image

Encoder = Callable[[Tensor], Tensor]
"""Float RGB [B, 3, S, S] in [0, 1] to features [B, D]; it normalises its input itself."""
BANK_SHARE = 0.1
"""The seed's small share of train for its nearest neighbours."""
RIDGE_STRENGTHS = tuple(10.0**power for power in range(-1, 5))
ROTATION_DEGREES = (0.0, 10.0, 20.0, 30.0, 40.0)
ROTATED_TRAIN, ROTATED_TEST = 2000, 1000
_CHUNK = 1024
"""Test features compared with the bank at once: bounds memory at 1024 x N similarities."""


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies (0 to 1) on the test half, and the label-free gauges of the train half's features."""

    knn: float
    knn_10pct: float
    linear: float
    rankme: float
    alpha: float


def run_probe(
    encoder: Encoder,
    control: ControlSet,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    degrees: float = 0.0,
    seed: int = 0,
) -> ProbeResult:
    """Measure `encoder` on `control`; `degrees` turns the test images, so that train upright and test turned compare.

    Equal arguments give equal results; `seed` draws the 10 % bank only.
    """
    train = extract(encoder, control.train_images, batch_size=batch_size, device=device)
    turned = rotate(control.test_images, degrees)
    test = extract(encoder, turned, batch_size=batch_size, device=device)
    labels, truth = control.train_labels, control.test_labels
    bank = stratified(labels, BANK_SHARE, np.random.default_rng(seed))
    return ProbeResult(
        knn=knn_accuracy(train, labels, test, truth),
        knn_10pct=knn_accuracy(train[torch.from_numpy(bank)], labels[bank], test, truth),
        linear=linear_accuracy(train, labels, test, truth),
        rankme=rankme(train),
        alpha=alpha_req(train),
    )


def run_rotations(
    encoder: Encoder, control: ControlSet, *, device: torch.device | str = "cpu"
) -> dict[str, list[float]]:
    """Accuracies on turned test images, a value for each of `degrees`: the seed's test (section 3.2).

    Of at most ROTATED_TRAIN and ROTATED_TEST images, whatever the set: this takes as long as one probe of CIFAR-10.
    """
    some = subset(control, train=ROTATED_TRAIN, test=ROTATED_TEST)
    results = [run_probe(encoder, some, device=device, degrees=angle) for angle in ROTATION_DEGREES]
    return {
        "degrees": list(ROTATION_DEGREES),
        "knn": [result.knn for result in results],
        "linear": [result.linear for result in results],
    }


def extract(encoder: Encoder, images: Image, *, batch_size: int = 256, device: torch.device | str) -> Tensor:
    """Features float32 [N, D], on the CPU, of images uint8 [N, S, S, 3] BGR.

    The encoder sees float RGB NCHW in [0, 1], in evaluation mode; the modes its parts had come back afterwards.
    """
    with _evaluating(encoder), torch.inference_mode():
        parts = [_encode(encoder, images[i : i + batch_size], device) for i in range(0, len(images), batch_size)]
    return torch.cat(parts)


def rotate(images: Image, degrees: float) -> Image:
    """Turn images uint8 [N, S, S, 3] about their centre, counter-clockwise; the corners are filled by reflection.

    Reflection, since black corners would be a cue of their own.
    """
    if degrees == 0:
        return images
    side = images.shape[1]
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees, 1.0)
    turned = [cv2.warpAffine(image, turn, (side, side), borderMode=cv2.BORDER_REFLECT_101) for image in images]
    return np.asarray(turned, np.uint8)


def knn_accuracy(
    train_features: Tensor,
    train_labels: Labels,
    test_features: Tensor,
    test_labels: Labels,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of test features whose `k` most similar train features vote for their label; features float [N, D], [M, D].

    A bank smaller than k votes as a whole. A tie goes to the lower label.
    """
    bank = nn.functional.normalize(train_features.float(), dim=1)
    query = nn.functional.normalize(test_features.float(), dim=1)
    labels = torch.from_numpy(train_labels).to(bank.device)
    chunks = [_vote(query[i : i + _CHUNK], bank, labels, k, temperature) for i in range(0, len(query), _CHUNK)]
    return float(np.mean(torch.cat(chunks).cpu().numpy() == test_labels))


def linear_accuracy(train_features: Tensor, train_labels: Labels, test_features: Tensor, test_labels: Labels) -> float:
    """Share of test features that ridge regression on the standardised train features classifies rightly."""
    classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=RIDGE_STRENGTHS))
    classifier.fit(train_features.double().cpu().numpy(), train_labels)
    return float(classifier.score(test_features.double().cpu().numpy(), test_labels))


def _vote(query_MD: Tensor, bank_ND: Tensor, labels_N: Tensor, k: int, temperature: float) -> Tensor:
    """The label [M] each query's neighbours vote for; a one-hot sum, since scattering is not deterministic on a GPU."""
    similarity_MK, index_MK = (query_MD @ bank_ND.T).topk(min(k, len(bank_ND)), dim=1)
    # Relative to the nearest neighbour, so that a low temperature cannot overflow; the votes' order is the same.
    weight_MK = ((similarity_MK - similarity_MK[:, :1]) / temperature).exp()
    one_hot_MKC = nn.functional.one_hot(labels_N[index_MK], int(labels_N.max()) + 1)
    return (one_hot_MKC * weight_MK[..., None]).sum(dim=1).argmax(dim=1)


def _encode(encoder: Encoder, images: Image, device: torch.device | str) -> Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    rgb = pixels.flip(-1).permute(0, 3, 1, 2).float() / 255
    return encoder(rgb).float().cpu()


@contextmanager
def _evaluating(encoder: Encoder) -> Iterator[None]:
    """Hold the module behind `encoder` (itself, or what a bound method belongs to) in evaluation mode."""
    owner = getattr(encoder, "__self__", encoder)
    modules = list(owner.modules()) if isinstance(owner, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
