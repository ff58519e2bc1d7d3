"""The learning rate of a stream, which has no last epoch: it warms up, then stays constant.

A cool-down, a branch whose rate falls to 0, gives better weights to export (Hu et al. 2024, MiniCPM, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch

from learner.bounds import Bound, NotNegative, Positive, check_bounds
from learner.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The settings of the optimiser over time."""

    optimiser: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with a momentum of 0.9, which needs a larger rate and adds the weight decay to the gradient."""
    learning_rate: Positive = 5e-4
    """Constant rate after the warm-up (the original experiment: 5e-4)."""
    warmup_steps: Annotated[int, Bound(ge=0)] = 100
    """Steps over which the rate rises linearly."""
    weight_decay: NotNegative = 0.04
    """Constant: the ramp of the original experiment, 0.001 to 0.2, needs an end that a stream does not have."""
    clip_grad_norm: float = 3.0
    """Largest norm of the gradient (as DINO clips)."""

    def __post_init__(self) -> None:
        check_bounds(self, "schedule")
        if not self.clip_grad_norm > 0:
            raise SettingsError(
                f"schedule: clip_grad_norm must be above 0 (inf: nothing is clipped), got {self.clip_grad_norm}"
            )


MOMENTUM = 0.9
"""Of SGD."""


def optimiser(config: ScheduleConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimiser of these groups of parameters; their learning rate is 0 until it is set."""
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay, fused=True)


def learning_rate(config: ScheduleConfig, step: int) -> float:
    """Return the learning rate of step number `step`, from 0."""
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))


def cooldown_factor(step: int, steps: int) -> float:
    """Return the factor of the learning rate in step number `step`, from 0, of a cool-down: from 1 linearly towards 0."""
    return 1 - step / steps
