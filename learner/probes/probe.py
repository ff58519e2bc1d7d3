"""Measures frozen features on a labelled control set with nearest neighbours and a linear classifier. Pure.

k-NN follows DINO (Caron et al. 2021, arXiv:2104.14294, eval_knn.py of facebookresearch/dino): cosine, k = 20, votes
weighted by exp(similarity / 0.07). `knn_10pct` is the protocol of the original experiment: the same with a bank of a stratified
10 % of train. The linear classifier is ridge regression on standardised features, with its strength chosen by leave-one-out:
a closed form, so deterministic; it takes 0.3 s for 10k x 192 and ten classes on one core.

Shapes: B batch, N train features, M test features, D their width, C classes, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from learner.probes.control_sets import ControlSet, stratified, subset
from learner.probes.packed_files import Labels
from learner.probes.spectrum import alpha_req, rankme
from stream.image import Image

FeatureFunction = Callable[[Tensor], Tensor]
"""Maps float RGB [B, 3, S, S] in [0, 1] to features [B, D]; it normalises its input itself."""
BANK_SHARE = 0.1
"""Share of train in the small bank of nearest neighbours of the original experiment."""
RIDGE_STRENGTHS = tuple(10.0**power for power in range(-1, 5))
ROTATION_DEGREES = (0.0, 10.0, 20.0, 30.0, 40.0)
ROTATED_TRAIN, ROTATED_TEST = 2000, 500
_CHUNK = 1024
"""Test features compared with the bank at once, which limits memory to 1024 x N similarities."""


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies (0 to 1) on the test half, and label-free gauges of the features of the train half."""

    knn: float
    knn_10pct: float
    linear: float
    rankme: float
    alpha: float
    knn_right: NDArray[np.bool_] = field(compare=False, repr=False)
    """Whether k-NN was right about each test image, [M]."""

    def figures(self) -> dict[str, float]:
        """Return the numbers by their names."""
        return {name: value for name, value in vars(self).items() if name != "knn_right"}


def run_probe(
    encoder: FeatureFunction,
    control: ControlSet,
    *,
    device: torch.device | str = "cpu",
    degrees: float = 0.0,
    seed: int = 0,
) -> ProbeResult:
    """Measure an encoder on a control set. degrees: rotation of the test images; the train images stay upright.

    Equal arguments give equal results; `seed` is used only to draw the bank of 10 %.
    """
    train = extract(encoder, control.train_images, device=device)
    test = extract(encoder, rotate(control.test_images, degrees), device=device)
    labels, truth = control.train_labels, control.test_labels
    bank = stratified(labels, BANK_SHARE, np.random.default_rng(seed))
    right = knn_right(train, labels, test, truth)
    return ProbeResult(
        knn=float(np.mean(right)),
        knn_10pct=knn_accuracy(train[torch.from_numpy(bank)], labels[bank], test, truth),
        linear=linear_accuracy(train, labels, test, truth),
        rankme=rankme(train),
        alpha=alpha_req(train),
        knn_right=right,
    )


def run_rotations(
    encoder: FeatureFunction,
    control: ControlSet,
    *,
    device: torch.device | str = "cpu",
    train: int = ROTATED_TRAIN,
    test: int = ROTATED_TEST,
) -> dict[str, list[float]]:
    """Return accuracies on rotated test images, one for each of `degrees`: a test of the original experiment (section 3.2).

    At most `train` and `test` images of the halves are used; by default the encoder sees 4500. The train images are upright: they
    are encoded, and the linear classifier is fitted, only once.
    """
    some = subset(control, train=train, test=test)
    labels, truth = some.train_labels, some.test_labels
    bank = extract(encoder, some.train_images, device=device)
    classifier = _linear(bank, labels)
    turned = [extract(encoder, rotate(some.test_images, degrees), device=device) for degrees in ROTATION_DEGREES]
    return {
        "degrees": list(ROTATION_DEGREES),
        "knn": [knn_accuracy(bank, labels, features, truth) for features in turned],
        "linear": [_score(classifier, features, truth) for features in turned],
    }


def extract(encoder: FeatureFunction, images: Image, *, batch_size: int = 256, device: torch.device | str) -> Tensor:
    """Return features float32 [N, D], on the CPU, of images uint8 [N, S, S, 3] BGR.

    The encoder receives float RGB [B, 3, S, S] in [0, 1] in evaluation mode; its modules get their modes back afterwards.
    """
    with evaluating(encoder), torch.inference_mode():
        parts = [_encode(encoder, images[i : i + batch_size], device) for i in range(0, len(images), batch_size)]
    return torch.cat(parts)


def rotate(images: Image, degrees: float) -> Image:
    """Rotate images uint8 [N, S, S, 3] counter-clockwise about their centre.

    Corners are filled by reflection, since black corners would tell the angle.
    """
    if degrees == 0:
        return images
    side = images.shape[1]
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees, 1.0)
    rotated = [cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101) for image in images]
    return np.asarray(rotated, np.uint8)


def knn_accuracy(
    train_features: Tensor,
    train_labels: Labels,
    test_features: Tensor,
    test_labels: Labels,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Return the share of test features about which k-NN is right; arguments as in `knn_right`."""
    right = knn_right(train_features, train_labels, test_features, test_labels, k=k, temperature=temperature)
    return float(np.mean(right))


def knn_right(
    train_features: Tensor,
    train_labels: Labels,
    test_features: Tensor,
    test_labels: Labels,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> NDArray[np.bool_]:
    """Return for each test feature whether its `k` most similar train features vote for its label, [M].

    Features are float [N, D] (train) and [M, D] (test), labels int64 [N] and [M]. If N < k, all of them vote; a tie goes to the
    lower label.
    """
    bank = nn.functional.normalize(train_features.float(), dim=1)
    query = nn.functional.normalize(test_features.float(), dim=1)
    labels = torch.from_numpy(train_labels).to(bank.device)
    chunks = [_vote(query[i : i + _CHUNK], bank, labels, k, temperature) for i in range(0, len(query), _CHUNK)]
    right: NDArray[np.bool_] = torch.cat(chunks).cpu().numpy() == test_labels
    return right


def linear_accuracy(train_features: Tensor, train_labels: Labels, test_features: Tensor, test_labels: Labels) -> float:
    """Return the accuracy of ridge regression on standardised features; arguments as in `knn_accuracy`."""
    return _score(_linear(train_features, train_labels), test_features, test_labels)


def _linear(features: Tensor, labels: Labels) -> Pipeline:
    """Return a linear classifier that is fitted to features float [N, D] with labels int64 [N]."""
    classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=RIDGE_STRENGTHS))
    return classifier.fit(features.double().cpu().numpy(), labels)


def _score(classifier: Pipeline, features: Tensor, labels: Labels) -> float:
    return float(classifier.score(features.double().cpu().numpy(), labels))


def _vote(query_MD: Tensor, bank_ND: Tensor, labels_N: Tensor, k: int, temperature: float) -> Tensor:
    """Return the label [M] for which the neighbours of each query vote; a one-hot sum, since scattering varies on a GPU."""
    similarity_MK, index_MK = (query_MD @ bank_ND.T).topk(min(k, len(bank_ND)), dim=1)
    # Relative to the nearest neighbour, so that a low temperature cannot overflow; the order of the votes is the same.
    weight_MK = ((similarity_MK - similarity_MK[:, :1]) / temperature).exp()
    one_hot_MKC = nn.functional.one_hot(labels_N[index_MK], int(labels_N.max()) + 1)
    return (one_hot_MKC * weight_MK[..., None]).sum(dim=1).argmax(dim=1)


def _encode(encoder: FeatureFunction, images: Image, device: torch.device | str) -> Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    rgb = pixels.flip(-1).permute(0, 3, 1, 2).float() / 255
    return encoder(rgb).float().cpu()


@contextmanager
def evaluating(encoder: FeatureFunction | nn.Module) -> Iterator[None]:
    """Hold the module of `encoder` (itself, or the owner of a bound method) in evaluation mode.

    Batch norms then use their running statistics, and change neither them nor wait for other processes.
    """
    owner = getattr(encoder, "__self__", encoder)
    modes = {module: module.training for module in owner.modules()} if isinstance(owner, nn.Module) else {}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
