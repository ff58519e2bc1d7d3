"""What the learner remembers, in two tiers: every pair is trained on once, then the reservoir decides how long it stays.

An item of memory is a clip: consecutive pairs that are drawn together and leave together, by default a single pair. A new clip
waits in the fresh queue, first in, first out. The next batch takes all fresh clips and fills up from the reservoir, so that a
clip's first training step also measures its first priority, with which it is offered to the reservoir. Nothing is ever scored
for its own sake. Capacities count pairs. Pure: no thread, no file, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
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
    """The pairs of one step: keys and slots [n]. The first `fresh` are fresh; a clip of the reservoir may be drawn twice.

    clips: int64 [n], numbers that are equal for the pairs of one drawn clip, and for no others in any process; None: each pair is
    a clip of its own.
    """

    keys: Keys
    slots: SlotNumbers
    fresh: int
    clips: Keys | None = None


class Memory:
    """The fresh queue and the reservoir over one set of slots. The key of a pair is its arrival number, that of a clip its first.

    It may be number `shard` of `shards` over parts of one stream, each with its part of the capacities. pool: see `Ranking`.
    ranking: instead of the one that the settings describe. signals: names of those that batches have.

    arrived: the next key; fresh: pairs that wait for their first training step; kept: pairs that the reservoir has;
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
        # A memory that was dealt out again may hold almost a clip too much in its fresh queue.
        count = (config.capacity + config.fresh_capacity) // shards + config.clip - 1
        self.slots = Slots(count, config.canvas, signals)
        reservoir = reservoir_for(config, seed=seed, shard=shard, shards=shards)
        self.ranking = ranking or Ranking(reservoir, pool=pool)
        self.fresh_capacity = config.fresh_capacity // shards
        self._shard = shard
        self._fresh: deque[int] = deque()
        self.arrived = self.fresh = self.kept = self.dropped_fresh = self.quarantined = 0

    def __len__(self) -> int:
        """Return how many pairs can be drawn: fresh or kept, and not in quarantine."""
        return len(self.slots) - self.slots.count(self.ranking.quarantine)

    def kept_keys(self) -> Keys:
        """Return the keys of all kept pairs: int64 [kept], clip after clip."""
        clips = self.ranking.reservoir.keys().tolist()
        return np.array([key for clip in clips for key in self.slots.keys_of(clip)], np.int64)

    def add(self, pair: StereoPair, key: int | None = None) -> int:
        """Put a pair, its images on the canvas, into the fresh queue. Returns its key, by default the next one."""
        key = self.arrived if key is None else key
        self.add_clip([key], [pair])
        return key

    def add_clip(self, keys: Sequence[int], pairs: Sequence[StereoPair]) -> None:
        """Put a clip of consecutive pairs, on the canvas, into the fresh queue; rising keys, at most `config.clip`."""
        while self._fresh and self.fresh + len(keys) > self.fresh_capacity:
            dropped = self.slots.release_clips([self._fresh.popleft()])
            self.dropped_fresh += dropped
            self.fresh -= dropped
        for key, pair in zip(keys, pairs, strict=True):
            self.slots.put(key, pair, clip=keys[0])
        self._fresh.append(keys[0])
        self.fresh += len(keys)
        self.arrived = max(self.arrived, keys[-1] + 1)

    def skip_key(self) -> None:
        """Leave out the next key: its pair belongs to another shard."""
        self.arrived += 1

    def draw(self, count: int) -> Draw:
        """Draw `count` pairs, in clips: the fresh ones that fit, then the ones scored longest ago, then by chance.

        The last clip is cut where it does not fit, but never a fresh one: while the reservoir is empty, fresh ones of this draw
        are shown again to fill it.
        """
        clips: list[int] = []
        room = count
        while self._fresh and (length := len(self.slots.keys_of(self._fresh[0]))) <= room:
            clips.append(self._fresh.popleft())
            room -= length
        fresh, fresh_pairs = clips[:], count - room
        self.fresh -= fresh_pairs
        stalest = -(-round(self.config.stalest_share * count) // self.config.clip)
        while room > 0:
            few = max(1, room // self.config.clip)  # so many fit, whatever their lengths; the last one alone may not
            drawn = self.ranking.draw(few, min(stalest, few)).tolist() or (fresh[:few] if self._fresh else [])
            if not drawn:
                break
            clips += drawn
            room, stalest = room - self.slots.count(drawn), 0
        rows = [self.slots.keys_of(clip) for clip in clips]
        keys = np.array([key for row in rows for key in row][:count], np.int64)
        numbers = np.repeat(np.arange(len(rows)), list(map(len, rows)))[:count] + self._shard * count
        return Draw(keys, self.slots.of(keys), fresh_pairs, numbers)

    def batch(self, draw: Draw, device: torch.device) -> Batch:
        """Copy the images of a draw to the compute device."""
        return self.slots.batch(draw.slots, device, draw.clips)

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
        """Score the clips of a finished step by the mean of the priorities of their pairs, [n], and offer the fresh ones.

        Raises ValueError, and changes nothing, if a priority is not finite or below 0.
        """
        if priority.shape != draw.keys.shape or not np.all((priority >= 0) & (priority <= PRIORITY_LIMIT)):
            raise ValueError(
                f"{len(draw.keys)} pairs need as many finite priorities of at least 0, got {priority[:8].tolist()}"
            )
        clips, first, which = np.unique(self.slots.clips[draw.slots], return_index=True, return_inverse=True)
        mean = np.bincount(which, priority) / np.bincount(which)  # a clip drawn twice has one score, by the mean
        rows = [self.slots.keys_of(clip) for clip in clips.tolist()]
        self.slots.priority[self.slots.of(chain.from_iterable(rows))] = np.repeat(mean, list(map(len, rows)))
        gone = self.ranking.score(clips, mean, first < draw.fresh)
        self.kept += draw.fresh - self.slots.release_clips(gone.tolist())

    def refuse(self, draw: Draw, is_bad: NDArray[np.bool_]) -> None:
        """Undo a draw whose step was refused: clips with a bad pair, bool [n], are never drawn again, other fresh ones wait."""
        clips = self.slots.clips[draw.slots]
        fresh, bad = dict.fromkeys(clips[: draw.fresh].tolist()), dict.fromkeys(clips[is_bad].tolist())
        again = [clip for clip in fresh if clip not in bad]
        self._fresh.extendleft(reversed(again))
        self.fresh += self.slots.count(again)
        self.quarantined += self.slots.count(bad)
        self.ranking.put_in_quarantine(clip for clip in bad if clip not in fresh)
        self.slots.release_clips(clip for clip in bad if clip in fresh)

    def state_dict(self) -> dict[str, Any]:
        """Return everything except the pairs themselves: their bytes are kept elsewhere, and come back with the state."""
        keys = self.slots.keys()
        slots = self.slots.of(keys)
        clips = {} if self.config.clip == 1 else {"clips": self.slots.clips[slots]}
        measured = {"signals": self.slots.signals.state_dict()} if self.slots.signals.names else {}
        return {
            "keys": keys,
            "priority": self.slots.priority[slots],
            "fresh": np.array(self._fresh, np.int64),
            "counts": {name: getattr(self, name) for name in _COUNTS},
            **clips,
            **measured,
            **self.ranking.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], pairs: Iterable[StereoPair | None]) -> None:
        """Continue from `state_dict()` of a memory with the same settings.

        pairs: those of the state's keys, in their order, on the canvas. None stands for a pair that cannot be read any more:
        its clip is put in quarantine; a fresh one is cut there. Raises ValueError, and changes nothing, if the settings differ.
        """
        self.ranking.load_state_dict(state)
        for name in _COUNTS:
            setattr(self, name, state["counts"][name])
        self.slots.clear()
        self.slots.signals.load_state_dict(state.get("signals", {}))
        unreadable, clips = set(), state.get("clips", state["keys"]).tolist()
        for key, clip, priority, pair in zip(state["keys"].tolist(), clips, state["priority"], pairs, strict=True):
            self.slots.put(key, pair, priority, clip)
            if pair is None:
                unreadable.add(key)
        self._fresh = deque(state["fresh"].tolist())
        self._drop(unreadable)
        self.fresh = self.slots.count(self._fresh)
        self.kept = len(self.slots) - self.fresh

    def _drop(self, unreadable: set[int]) -> None:
        """Cut the fresh clips of these pairs, and put the kept ones in quarantine."""
        bad, before = set(self.slots.clips[self.slots.of(unreadable)].tolist()), len(self.slots)
        waiting, self._fresh = self._fresh, deque()
        for clip in waiting:
            self._fresh.extend(self.slots.cut(clip, unreadable))
        kept = bad.difference(waiting) - self.ranking.quarantine
        if kept:
            self.ranking.put_in_quarantine(kept)
        self.quarantined += before - len(self.slots) + self.slots.count(kept)
