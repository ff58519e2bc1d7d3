"""Autoencoders: the formula in NumPy, each decoder, what of a picture comes out again, and that one learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from every_objective import COUNT, see, seeded, small, some_pairs, trainer
from numpy.typing import NDArray
from torch import Tensor

from learner.errors import SettingsError
from learner.objectives.autoencoders.autoencoder import AutoencoderConfig
from learner.objectives.autoencoders.decoders import DECODERS
from learner.objectives.autoencoders.explained import explained
from learner.objectives.contract import Batch
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
