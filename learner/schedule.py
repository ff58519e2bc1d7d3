"""The learning rate of a stream, which has no last epoch: it warms up, then stays constant.

A cool-down, a branch whose rate falls to 0, gives better weights to export (Hu et al. 2024, MiniCPM, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

from learner.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The settings of AdamW over time."""

    learning_rate: float = 5e-4
    """Constant rate after the warm-up (the original experiment: 5e-4)."""
    warmup_steps: int = 100
    """Steps over which the rate rises linearly."""
    weight_decay: float = 0.04
    """Constant: the ramp of the original experiment, 0.001 to 0.2, needs an end that a stream does not have."""
    clip_grad_norm: float = 3.0
    """Largest norm of the gradient (as DINO clips)."""

    def __post_init__(self) -> None:
        if not (
            self.learning_rate > 0 and self.warmup_steps >= 0 and self.weight_decay >= 0 and self.clip_grad_norm > 0
        ):
            raise SettingsError(
                f"schedule needs learning_rate > 0, warmup_steps >= 0, weight_decay >= 0 and clip_grad_norm > 0, got {self}"
            )


def learning_rate(config: ScheduleConfig, step: int) -> float:
    """Return the learning rate of step number `step`, from 0."""
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))


def cooldown_factor(step: int, steps: int) -> float:
    """Return the factor of the learning rate in step number `step`, from 0, of a cool-down: from 1 linearly towards 0."""
    return 1 - step / steps
