"""Autoencoders: the formula in NumPy, each decoder, what of a picture comes out again, and that one learns."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from every_objective import COUNT, see, seeded, small, some_pairs, trainer
from numpy.typing import NDArray
from torch import Tensor

from learner.errors import SettingsError
from learner.objectives.autoencoders.autoencoder import AutoencoderConfig
from learner.objectives.autoencoders.ccvae import CCVAEConfig
from learner.objectives.autoencoders.decoders import DECODERS
from learner.objectives.autoencoders.explained import explained
from learner.objectives.contract import Batch
from learner.trainer import Trainer
from learner.views.one_eye import WholeConfig

Array = NDArray[np.float64]
pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = pytest.mark.parametrize("kind", list(DECODERS))


def numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def settings(**changes: Any) -> AutoencoderConfig:
    return AutoencoderConfig(**{"embedding": 8, "width": 16, **changes})


@KINDS
def test_the_loss_is_the_squared_error_of_the_picture_that_the_embedding_becomes(kind: Any) -> None:
    made = trainer("autoencoder", objective=settings(decoder=kind))
    views = made.objective.views(some_pairs(), seeded())
    see(made.objective, views)
    outcome = made.outcome(some_pairs(), seeded())
    objective: Any = made.objective
    pictures = objective.decoder(objective.student(views.large[:, 0]))
    assert pictures.shape == (COUNT, 3, 32, 32)
    expected = ((numpy(pictures) - numpy(views.large[:, 0])) ** 2).mean((1, 2, 3))
    assert numpy(outcome.losses) == pytest.approx(expected, rel=1e-4)


def test_a_variational_one_pays_for_what_its_embedding_says() -> None:
    made = trainer("autoencoder", objective=settings(beta=5.0))
    objective: Any = made.objective
    views = objective.views(some_pairs(), seeded())
    see(objective, views)
    outcome = made.outcome(some_pairs(), seeded(7))
    mean, log_variance = np.split(numpy(objective.student(views.large[:, 0])), 2, axis=1)
    noise = numpy(torch.randn(mean.shape, generator=seeded(7)))
    z = torch.from_numpy(mean + np.exp(log_variance / 2) * noise).float()
    errors = ((numpy(objective.decoder(z)) - numpy(views.large[:, 0])) ** 2).mean((1, 2, 3))
    for i in range(COUNT):
        apart = sum(
            (m**2 + np.exp(v) - 1 - v) / 2 for m, v in zip(mean[i].tolist(), log_variance[i].tolist(), strict=True)
        )
        expected = errors[i] + 2 * 5.0 * apart / (3 * 32 * 32)
        assert float(outcome.losses[i].detach()) == pytest.approx(expected, rel=1e-4)


def test_the_picture_is_all_of_one_eye_as_it_is() -> None:
    pairs = some_pairs()
    pairs = Batch(pairs.left, 255 - pairs.left, pairs.aspect)
    views = trainer("autoencoder").objective.views(pairs, seeded())
    assert views.large.shape == (COUNT, 1, 3, 32, 32)
    means = numpy(views.large[:, 0]).mean((2, 3))
    left, right = (numpy(eye.flip(-1).float()).mean((1, 2)) / 255 for eye in (pairs.left, pairs.right))
    is_left = np.abs(means - left).max(1) < 0.02
    assert set(is_left.tolist()) == {True, False}
    assert means == pytest.approx(np.where(is_left[:, None], left, right), abs=0.02)


@pytest.mark.parametrize(("kind", "size"), [("convolutional", 24), ("transformer", 6)])
def test_a_size_that_a_decoder_cannot_make_is_refused(kind: str, size: int) -> None:
    with pytest.raises(SettingsError, match=f"size {size} must be"):
        DECODERS[kind](8, 16, size)


def test_light_contrast_and_colour_are_told_apart() -> None:
    pictures = torch.rand(64, 3, 8, 8, generator=seeded()) * torch.rand(64, 1, 1, 1, generator=seeded(1))
    assert [float(share) for share in explained(pictures, pictures).values()] == [1, 1, 1]
    flat = pictures.mean((1, 2, 3), keepdim=True).expand_as(pictures)
    light, contrast, colour = (float(share) for share in explained(pictures, flat).values())
    assert light > 0.9
    assert abs(contrast) < 0.1
    assert abs(colour) < 0.1
    luma = pictures.new_tensor((0.299, 0.587, 0.114)).view(3, 1, 1)
    shades = (pictures * luma).sum(1, keepdim=True).expand_as(pictures)
    light, contrast, colour = (float(share) for share in explained(pictures, shades).values())
    assert (light, contrast, colour) == pytest.approx((1, 1, 0), abs=1e-4)
    assert float(explained(pictures, torch.zeros_like(pictures))["explained_light"]) < 0


@KINDS
def test_it_learns_to_give_a_few_pictures_again(kind: Any) -> None:
    config = small("autoencoder", objective=settings(decoder=kind, width=32), views=WholeConfig(size=32))
    made = type(trainer("autoencoder"))(config, torch.device("cpu"))
    losses = [made.step(some_pairs()).report.loss for _ in range(60)]
    assert losses[-1] < losses[0] / 3


def in_clips(clips: list[int]) -> Batch:
    return dataclasses.replace(some_pairs(len(clips)), clips=torch.tensor(clips))


@pytest.mark.parametrize("beta", [0.0, 3.0])
def test_in_a_clip_the_decoder_also_sees_the_first_picture(beta: float) -> None:
    batch = in_clips([0, 0, 1, 2, 2, 2])
    made = trainer("ccvae", objective=CCVAEConfig(embedding=8, context=4, width=16, beta=beta))
    objective: Any = made.objective
    views = objective.views(batch, seeded())
    see(objective, views)
    outcome = made.outcome(batch, seeded(7))
    pictures = views.large[:, 0]
    features = numpy(objective.student.encoder(pictures))
    weight, bias = numpy(objective.context.weight), numpy(objective.context.bias)
    noise = numpy(torch.randn(COUNT, 8, generator=seeded(7)))
    for row, first in enumerate([0, 0, 2, 3, 3, 3]):
        context = features[first] @ weight.T + bias
        both = torch.from_numpy(np.concatenate([features[row], context]))[None].float()
        numbers = numpy(objective.student.project(both))[0]
        mean, log_variance = (numbers[:8], numbers[8:]) if beta else (numbers, np.full(8, -np.inf))
        z = mean + np.exp(log_variance / 2) * noise[row]
        seen = torch.from_numpy(np.concatenate([z, context]))[None].float()
        expected = ((numpy(objective.decoder(seen)) - numpy(pictures[row])) ** 2).mean()
        if beta:
            apart = (mean**2 + np.exp(log_variance) - 1 - log_variance).sum() / 2
            expected += 2 * beta * apart / (3 * 32 * 32)
        assert float(outcome.losses[row].detach()) == pytest.approx(expected, rel=1e-3)


def test_what_a_clip_shows_all_the_time_comes_from_its_first_picture() -> None:
    """A decoder that was trained so gives back the place of another clip when it is told of that clip's first picture."""
    made = Trainer(
        small("ccvae", objective=CCVAEConfig(embedding=2, context=16, width=32, beta=1e-3)), torch.device("cpu")
    )
    pairs = some_pairs(4)
    places = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    batch = Batch(pairs.left[places], pairs.left[places], torch.ones(12), clips=torch.tensor(places))
    for _ in range(80):
        made.step(batch)
    objective: Any = made.objective
    pictures = objective.views(batch, seeded()).large[:, 0]
    with torch.no_grad():
        features = objective.student.encoder(pictures)
        other = torch.cat([features[3:6], features[1:3]])
        swapped = Batch(batch.left[:5], batch.left[:5], torch.ones(5), clips=torch.zeros(5, dtype=torch.int64))
        shown, _ = objective.rebuilt(other, swapped, seeded())
    errors = [float((shown[3:] - pictures[place]).square().mean()) for place in (3, 0)]
    assert errors[0] < errors[1]
