"""The seed's objective small enough for tests, past its random start, and pairs for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from learner.networks.encoder import EncoderConfig
from learner.objectives.babyagent import BabyAgent, BabyAgentConfig
from learner.objectives.contract import Batch, Objective
from learner.views.augment import Augmentation
from learner.views.guided import GuidedViews

ENCODER = EncoderConfig(backbone="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=32, depth=2, heads=2)
TINY = BabyAgentConfig(
    crops=3,
    attention_size=32,
    teacher_size=32,
    student_size=16,
    prototypes=16,
    hidden=32,
    bottleneck=8,
    student_temperature=0.2,
    teacher_temperature=0.15,
)
PLAIN = Augmentation(flip=0, jitter=0, grey=0, blur=0, solarise=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def agent(seed: int = 0, **changes: Any) -> BabyAgent:
    """A tiny objective past its random start: its networks differ, and tell images apart, so that no term is trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objective = dataclasses.replace(TINY, **changes).build(ENCODER)
        assert isinstance(objective, BabyAgent)
        with torch.no_grad():
            for parameter in objective.parameters():
                if parameter.ndim > 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
            objective.centre.mean.copy_(0.1 * torch.randn(objective.config.prototypes))
    return objective


def some_pairs(count: int = 4, seed: int = 0) -> Batch:
    """Smooth random pairs, the eyes unlike each other."""
    coarse = torch.rand(2 * count, 3, 4, 5, generator=seeded(seed))
    fine = nn.functional.interpolate(coarse, (24, 32), mode="bilinear").permute(0, 2, 3, 1)
    left, right = (fine * 255).to(torch.uint8).chunk(2)
    return Batch(left, right, torch.full((count,), 4 / 3))


def numpy(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().numpy()


def viewed(objective: Objective[Any], batch: Batch, generator: torch.Generator) -> GuidedViews:
    """The views that the objective makes of a batch, with the places that attention gave them."""
    views = objective.views(batch, generator)
    assert isinstance(views, GuidedViews)
    return views


def gradient_at_crops(objective: Any, batch: Batch) -> NDArray[np.float64]:
    """Of the batch's loss by the pixels of every crop that the student is given, pair after pair: [B * N, 3, S, S]."""
    pixels: list[Tensor] = []

    def see(_encoder: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        pixels.append(inputs[0].detach().requires_grad_())
        return (pixels[-1], *inputs[1:])

    hook = objective.student.encoder.register_forward_pre_hook(see)
    loss: Tensor = objective(batch, seeded()).losses.mean()
    hook.remove()
    return np.concatenate([numpy(gradient) for gradient in torch.autograd.grad(loss, pixels)])
