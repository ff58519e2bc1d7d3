"""How much to train for what was received: a budget of `replay_ratio` training samples per pair.

A stream without a limit would be trained on thousands of times over before anything new comes; a learner that is too slow
would fall behind for ever. So each pair received adds `replay_ratio` samples to a budget and each step spends a batch of
it. Where the budget is spent the learner waits for pairs; where it overflows, the machine cannot keep the ratio, the
rest is forgone and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from learner.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class PacingConfig:
    """The ratio of training to receiving."""

    replay_ratio: float = 16.0
    """Training samples per pair received; each pair is seen about that often while it is in memory."""
    batch_size: int = 128
    """Pairs in a training step."""
    max_owed_steps: int = 32
    """Steps that may be owed at most; what a burst of pairs would add beyond is forgone."""

    def __post_init__(self) -> None:
        if not 0 < self.replay_ratio < math.inf or self.batch_size < 2 or self.max_owed_steps < 1:
            raise SettingsError(f"pacing needs replay_ratio > 0, batch_size >= 2 and max_owed_steps >= 1, got {self}")


class Pacing:
    """The budget; `owed` is in samples."""

    def __init__(self, config: PacingConfig) -> None:
        self.config = config
        self.owed = 0.0
        self.forgone = 0.0

    def received(self, pairs: int) -> None:
        """`pairs` came in: owe their share."""
        owed = self.owed + pairs * self.config.replay_ratio
        self.owed = min(owed, float(self.config.max_owed_steps * self.config.batch_size))
        self.forgone += owed - self.owed

    def wanted(self) -> int:
        """Pairs still missing before the next step is due; 0 when it is."""
        return max(0, math.ceil((self.config.batch_size - self.owed) / self.config.replay_ratio))

    def spend(self) -> None:
        """A step was taken."""
        self.owed -= self.config.batch_size

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"owed": self.owed, "forgone": self.forgone}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from `state_dict()`: a resumed learner does not burst."""
        self.owed, self.forgone = state["owed"], state["forgone"]
