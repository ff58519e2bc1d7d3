"""How many steps the received pairs pay for: a budget of `replay_ratio` training samples for each pair.

Without a limit the learner would train thousands of times on the same pairs before new ones arrive, and a learner that is too
slow would fall behind for ever. So each received pair adds `replay_ratio` samples to a budget, and each step spends a batch of
it. When the budget is spent, the learner waits for pairs. When it overflows, the machine is too slow for the ratio; the rest is
forgone and counted.
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
    """Largest number of steps that the budget can hold; samples that a burst of pairs would add beyond it are forgone."""

    def __post_init__(self) -> None:
        if not 0 < self.replay_ratio < math.inf or self.batch_size < 2 or self.max_owed_steps < 1:
            raise SettingsError(f"pacing needs replay_ratio > 0, batch_size >= 2 and max_owed_steps >= 1, got {self}")


@dataclass
class Pacing:
    """The budget."""

    config: PacingConfig
    owed: float = 0.0
    """Samples that may still be trained on."""
    forgone: float = 0.0
    """Samples given up, because the machine was too slow."""

    def received(self, pairs: int) -> None:
        """Add the samples of so many received pairs."""
        owed = self.owed + pairs * self.config.replay_ratio
        self.owed = min(owed, float(self.config.max_owed_steps * self.config.batch_size))
        self.forgone += owed - self.owed

    def wanted(self) -> int:
        """Return how many pairs are missing before the next step is due; 0 when it is."""
        return max(0, math.ceil((self.config.batch_size - self.owed) / self.config.replay_ratio))

    def spend(self) -> None:
        """Subtract the batch of one step."""
        self.owed -= self.config.batch_size

    def state_dict(self) -> dict[str, float]:
        """Return the state for a checkpoint."""
        return {"owed": self.owed, "forgone": self.forgone}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from `state_dict()`: a resumed learner does not burst."""
        self.owed, self.forgone = state["owed"], state["forgone"]
