"""The settings of memory."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from learner.bounds import Count, NotNegative, check_bounds
from learner.errors import SettingsError
from stream.image import MAX_SIDE


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Which pairs stay, and which are drawn: the numbers of the formula that `buffer.reservoir` explains."""

    loss_weight: float = 1.0
    half_life: float = math.inf
    noise: float = 1.0
    uniform_floor: float = 1.0


PolicyName = Literal["loss", "kept-by-loss", "recent-loss", "uniform", "recent", "fifo", "greedy"]
POLICIES: dict[PolicyName, Policy] = {
    "loss": Policy(uniform_floor=0.25),
    "kept-by-loss": Policy(),
    "recent-loss": Policy(half_life=3.0),
    "uniform": Policy(loss_weight=0.0),
    "recent": Policy(loss_weight=0.0, half_life=3.0),
    "fifo": Policy(loss_weight=0.0, half_life=1.0, noise=0.0),
    "greedy": Policy(noise=0.0),
}
"""The policies by name, their half-lives in capacities. docs/reservoir.md says what they were worth; never change one, because
runs name them."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """The size of the memory, and which pairs stay when it is full (`buffer.reservoir` explains the formula)."""

    capacity: int = 4096
    """Pairs in the reservoir."""
    fresh_capacity: int = 512
    """Pairs that may wait for their first training step. Beyond it the oldest one is dropped without a step and counted."""
    clip: Count = 1
    """Largest number of consecutive pairs that are kept, drawn and dropped together. Objectives that learn from time set it."""
    max_gap_s: NotNegative = 10.0
    """Longest time in seconds between two pairs of a clip."""
    canvas: tuple[int, int] = (288, 384)
    """Height and width in pixels that images are squeezed onto; windows are square on the scene whatever the canvas."""
    policy: PolicyName = "loss"
    """Which pairs stay and are drawn again: it sets loss_weight, half_life, noise and uniform_floor, where they are not given
    (docs/reservoir.md has a table)."""
    loss_weight: float | None = None
    """How much a high priority helps a pair to stay: 0 ignores it, below 0 prefers easy pairs."""
    half_life: float | None = None
    """Arrivals after which a pair's chance to stay halves; inf treats all times alike."""
    noise: float | None = None
    """1 keeps a random sample, 0 keeps strictly the best scores."""
    uniform_floor: float | None = None
    """Share of each draw that ignores the priority."""
    stalest_share: float = 0.05
    """Share of each batch, to the nearest pair, for the pairs whose priority was measured longest ago. Where fresh pairs leave
    room for them, the priority of none of n pairs in memory gets older than n / (share * batch) steps."""

    def __post_init__(self) -> None:
        check_bounds(self, "memory")
        if self.clip > 1 and self.clip > min(self.capacity, self.fresh_capacity):
            raise SettingsError(
                f"memory: a clip of {self.clip} pairs is longer than capacity {self.capacity} or fresh_capacity "
                f"{self.fresh_capacity}: lower --memory.clip, or raise these"
            )

    @property
    def clips(self) -> int:
        """Clips in the reservoir, each with room for all of its pairs."""
        return self.capacity // self.clip

    @property
    def numbers(self) -> Policy:
        """The numbers of the policy, its half-life in arrivals. Numbers that are given replace those of the policy."""
        named = POLICIES[self.policy]
        policy = replace(named, half_life=named.half_life * self.capacity)
        given = {field.name: getattr(self, field.name) for field in fields(Policy)}
        return replace(policy, **{name: value for name, value in given.items() if value is not None})

    def by_name(self) -> MemoryConfig:
        """Return the same settings without the numbers that the policy sets anyway."""
        none: dict[str, Any] = {field.name: None for field in fields(Policy)}
        alone = replace(self, **none)
        named = asdict(alone.numbers)
        return replace(alone, **{name: value for name, value in asdict(self.numbers).items() if value != named[name]})

    def check(self, shards: int) -> None:
        """Raise SettingsError if these settings cannot work in `shards` processes."""
        if self.capacity % shards or self.fresh_capacity % shards:
            raise SettingsError(
                f"memory: capacity {self.capacity} and fresh_capacity {self.fresh_capacity} must be multiples of the "
                f"{shards} processes that share them"
            )
        if self.clips % shards or self.fresh_capacity // shards < self.clip:
            raise SettingsError(
                f"memory: capacity {self.capacity} has {self.clips} clips of {self.clip} pairs, which must be a multiple of "
                f"the {shards} processes that share them, and fresh_capacity {self.fresh_capacity} must hold one for each: "
                "change --memory.capacity, --memory.fresh-capacity or --memory.clip"
            )
        if not 0 <= self.stalest_share <= 1:
            raise SettingsError(f"memory: stalest_share must be in [0, 1], got {self.stalest_share}")
        if self.fresh_capacity < 1 or not all(8 <= side <= MAX_SIDE for side in self.canvas):
            raise SettingsError(
                f"memory: fresh_capacity must be at least 1 and canvas sides 8 to {MAX_SIDE} pixels, "
                f"got {self.fresh_capacity} and {self.canvas}"
            )
