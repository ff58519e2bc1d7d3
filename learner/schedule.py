"""Learning rate for a stream: it has no last epoch, so warm up, then stay constant (evidence/learning.md, section 1).

A snapshot for others comes from a branch whose rate falls to nothing (Hu et al. 2024, MiniCPM, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

from learner.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """AdamW's settings over time."""

    learning_rate: float = 5e-4
    """Constant rate after the warm-up (seed 000: 5e-4)."""
    warmup_steps: int = 100
    """Steps over which the rate rises linearly."""
    weight_decay: float = 0.04
    """Constant: the seed's 0.001 -> 0.2 ramp needs an end that a stream has not."""
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
    """Rate of step number `step`, from 0."""
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))


def cooldown_factor(step: int, steps: int) -> float:
    """What the rate of step number `step`, from 0, of a cool-down of `steps` is multiplied by: from 1 along a line towards 0."""
    return 1 - step / steps
