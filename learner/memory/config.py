"""The settings of memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from learner.errors import SettingsError
from stream.image import MAX_SIDE


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """The size of the memory, and which pairs stay when it is full (`buffer.reservoir` explains the formula)."""

    capacity: int = 4096
    """Pairs in the reservoir."""
    fresh_capacity: int = 512
    """Pairs that may wait for their first training step. Beyond it the oldest one is dropped without a step and counted."""
    canvas: tuple[int, int] = (288, 384)
    """Height and width in pixels that images are squeezed onto; windows are square on the scene whatever the canvas."""
    loss_weight: float = 1.0
    """How much a high priority helps a pair to stay: 0 ignores it, below 0 prefers easy pairs."""
    half_life: float = math.inf
    """Arrivals after which a pair's chance to stay halves; inf treats all times alike."""
    noise: float = 1.0
    """1 keeps a random sample, 0 keeps strictly the best scores."""
    uniform_floor: float = 0.25
    """Share of each draw that ignores the priority."""
    stalest_share: float = 0.05
    """Share of each batch, to the nearest pair, for the pairs whose priority was measured longest ago. Where fresh pairs leave
    room for them, the priority of none of n pairs in memory gets older than n / (share * batch) steps."""

    def check(self, shards: int) -> None:
        """Raise SettingsError if these settings cannot work in `shards` processes."""
        if self.capacity % shards or self.fresh_capacity % shards:
            raise SettingsError(
                f"memory: capacity {self.capacity} and fresh_capacity {self.fresh_capacity} must be multiples of the "
                f"{shards} processes that share them"
            )
        if not 0 <= self.stalest_share <= 1:
            raise SettingsError(f"memory: stalest_share must be in [0, 1], got {self.stalest_share}")
        if self.fresh_capacity < 1 or not all(8 <= side <= MAX_SIDE for side in self.canvas):
            raise SettingsError(
                f"memory: fresh_capacity must be at least 1 and canvas sides 8 to {MAX_SIDE} pixels, "
                f"got {self.fresh_capacity} and {self.canvas}"
            )
