"""What the learner remembers, in two tiers: every pair is trained on once, then the reservoir decides how long it stays.

A received pair waits in the fresh queue, first in, first out. The next batch takes all fresh pairs and fills up from the
reservoir, so that a pair's first training step also measures its first priority, with which it is offered to the reservoir.
Nothing is ever scored for its own sake. Pure: no thread, no file, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from buffer.index import Keys
from buffer.priority import PRIORITY_LIMIT
from learner.memory.config import MemoryConfig
from learner.memory.ranking import Floats, Pool, Ranking, reservoir_for
from learner.memory.slots import SlotNumbers, Slots
from learner.views.contract import Batch

if TYPE_CHECKING:  # the bench on a GPU runs without the packages of the stream
    from stream.pair import StereoPair

_COUNTS = ("arrived", "dropped_fresh", "quarantined")


@dataclass(frozen=True, slots=True)
class Draw:
    """The pairs of one step: keys and slots [n]. The first `fresh` are fresh; a pair of the reservoir may be drawn twice."""

    keys: Keys
    slots: SlotNumbers
    fresh: int


class Memory:
    """The fresh queue and the reservoir over one set of slots. The key of a pair is its arrival number.

    It may be number `shard` of `shards` over parts of one stream, each with its part of the capacities. pool: see `Ranking`.
    ranking: instead of the one that the settings describe. signals: names of those that batches have. arrived: the next key;
    dropped_fresh: pairs dropped before their first step; quarantined: pairs that were put in quarantine.
    """

    def __init__(
        self,
        config: MemoryConfig,
        *,
        seed: int,
        shard: int = 0,
        shards: int = 1,
        pool: Pool | None = None,
        ranking: Ranking | None = None,
        signals: Sequence[str] = (),
    ) -> None:
        config.check(shards)
        self.config = config
        self.slots = Slots((config.capacity + config.fresh_capacity) // shards, config.canvas, signals)
        reservoir = reservoir_for(config, seed=seed, shard=shard, shards=shards)
        self.ranking = ranking or Ranking(reservoir, pool=pool)
        self.fresh_capacity = config.fresh_capacity // shards
        self._fresh: deque[int] = deque()
        self.arrived = self.dropped_fresh = self.quarantined = 0

    def __len__(self) -> int:
        """Return how many pairs can be drawn: fresh or kept, and not in quarantine."""
        return len(self.slots) - len(self.ranking.quarantine)

    @property
    def fresh(self) -> int:
        """Number of pairs that wait for their first training step."""
        return len(self._fresh)

    def add(self, pair: StereoPair, key: int | None = None) -> int:
        """Put a pair, its images on the canvas, into the fresh queue. Returns its key, by default the next one."""
        if len(self._fresh) == self.fresh_capacity:
            self.slots.release([self._fresh.popleft()])
            self.dropped_fresh += 1
        key = self.arrived if key is None else key
        self.slots.put(key, pair)
        self._fresh.append(key)
        self.arrived = key + 1
        return key

    def skip_key(self) -> None:
        """Leave out the next key: its pair belongs to another shard."""
        self.arrived += 1

    def draw(self, count: int) -> Draw:
        """Draw `count` pairs to train on: all fresh ones, then the ones scored longest ago, then by chance."""
        fresh = [self._fresh.popleft() for _ in range(min(count, len(self._fresh)))]
        stalest = min(round(self.config.stalest_share * count), count - len(fresh))
        keys = np.concatenate([np.asarray(fresh, np.int64), self.ranking.draw(count - len(fresh), stalest)])
        return Draw(keys, self.slots.of(keys), len(fresh))

    def batch(self, draw: Draw, device: torch.device) -> Batch:
        """Copy the images of a draw to the compute device."""
        return self.slots.batch(draw.slots, device)

    def names_of(self, draw: Draw) -> list[str]:
        """Return the identities of the drawn pairs, as a person reads them."""
        return [self.slots.names[slot] for slot in draw.slots]

    def fresh_captures(self, draw: Draw) -> tuple[tuple[str, int], ...]:
        """Return device and capture time of the fresh pairs of a draw, nanoseconds since 1970 by the device's clock."""
        return tuple(self.slots.captured[slot] for slot in draw.slots[: draw.fresh])

    def newest_ns(self) -> int | None:
        """Return the latest capture time of all pairs that ever had a slot, by its device's clock; None before the first."""
        return max((time_ns for device, time_ns in self.slots.captured if device), default=None)

    def score(self, draw: Draw, priority: Floats) -> None:
        """Score the pairs of a finished step by their priorities [n], and let the reservoir decide on the fresh ones.

        Raises ValueError, and changes nothing, if a priority is not finite or below 0.
        """
        if priority.shape != draw.keys.shape or not np.all((priority >= 0) & (priority <= PRIORITY_LIMIT)):
            raise ValueError(
                f"{len(draw.keys)} pairs need as many finite priorities of at least 0, got {priority[:8].tolist()}"
            )
        keys, first, which = np.unique(draw.keys, return_index=True, return_inverse=True)
        mean = np.bincount(which, priority) / np.bincount(which)  # a pair drawn twice has one score, by the mean
        self.slots.priority[draw.slots[first]] = mean
        self.slots.release(self.ranking.score(keys, mean, first < draw.fresh).tolist())

    def refuse(self, draw: Draw, is_bad: NDArray[np.bool_]) -> None:
        """Undo a draw whose step was refused: the bad pairs, bool [n], are never drawn again, other fresh ones wait again."""
        fresh, fresh_bad = draw.keys[: draw.fresh], is_bad[: draw.fresh]
        self._fresh.extendleft(reversed(fresh[~fresh_bad].tolist()))
        self.slots.release(fresh[fresh_bad].tolist())
        kept = set(draw.keys[draw.fresh :][is_bad[draw.fresh :]].tolist())
        self.ranking.put_in_quarantine(kept)
        self.quarantined += int(fresh_bad.sum()) + len(kept)

    def state_dict(self) -> dict[str, Any]:
        """Return everything except the pairs themselves: their bytes are kept elsewhere, and come back with the state."""
        keys = self.slots.keys()
        measured = {"signals": self.slots.signals.state_dict()} if self.slots.signals.names else {}
        return {
            "keys": keys,
            "priority": self.slots.priority[self.slots.of(keys)],
            "fresh": np.array(self._fresh, np.int64),
            "counts": {name: getattr(self, name) for name in _COUNTS},
            **measured,
            **self.ranking.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], pairs: Iterable[StereoPair | None]) -> None:
        """Continue from `state_dict()` of a memory with the same settings.

        pairs: those of the state's keys, in their order, on the canvas. None stands for a pair that cannot be read any more; it
        is put in quarantine. Raises ValueError, and changes nothing, if the settings differ.
        """
        self.ranking.load_state_dict(state)
        for name in _COUNTS:
            setattr(self, name, state["counts"][name])
        self._fresh = deque(state["fresh"].tolist())
        self.slots.clear()
        self.slots.signals.load_state_dict(state.get("signals", {}))
        unreadable = set()
        for key, priority, pair in zip(state["keys"].tolist(), state["priority"], pairs, strict=True):
            self.slots.put(key, pair, priority)
            if pair is None:
                unreadable.add(key)
        self._drop(unreadable)

    def _drop(self, unreadable: set[int]) -> None:
        """Forget the fresh ones of these pairs, and put the kept ones in quarantine."""
        fresh = unreadable.intersection(self._fresh)
        self._fresh = deque(key for key in self._fresh if key not in fresh)
        self.slots.release(fresh)
        kept = unreadable - fresh - self.ranking.quarantine
        if kept:
            self.ranking.put_in_quarantine(kept)
        self.quarantined += len(fresh) + len(kept)
