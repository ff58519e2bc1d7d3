"""Consecutive pairs become clips, before they enter memory. Pure.

A pair joins the open clip that ends with the pair before it: the same device, epoch and episode, the next seq, and a capture
time that is not earlier and at most `max_gap_s` later. Otherwise it opens a clip. Pairs that a rig sends late arrive between
others, so several clips of one epoch may be open. A clip closes

- when it has `clip` pairs;
- shorter, before a pair that cannot follow: held out, not decodable, of another episode, or too far away in time;
- shorter, when as many pairs as the fresh queue holds have arrived since its last one, or too many clips are open;
- shorter, when the source ends.

So each pair is in exactly one clip, whatever is missing around it. Which process a clip belongs to is decided when it opens: the
one that was given the fewest pairs. With `clip` 1 each pair is closed at once, and belongs to process `key % shards`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from buffer.index import Keys
from learner.memory.config import MemoryConfig

if TYPE_CHECKING:  # the bench on a GPU runs without the packages of the stream
    from stream.pair import EncodedPair, Header, StereoPair

ALL_CLOSED: Mapping[str, Any] = {"open": ()}
"""The state of a run whose clips have one pair: none is ever open."""


@dataclass(eq=False, slots=True)
class Clip:
    """Consecutive pairs under rising keys. owner: the process that it belongs to.

    pairs: those that are decoded lie on the canvas; None stands for one that cannot be read any more.
    """

    owner: int
    keys: list[int] = field(default_factory=list)
    pairs: list[EncodedPair | StereoPair | None] = field(default_factory=list)


class _Next(NamedTuple):
    """The pair that an open clip waits for."""

    device: str
    epoch: str
    seq: int


class Assembler:
    """The open clips of a run, in its leader.

    shards: processes that clips are dealt to. batch_size: pairs that the fresh queue needs room for beside those of open clips.
    max_bytes: of all open pairs on the canvas.
    """

    def __init__(self, config: MemoryConfig, shards: int, batch_size: int = 0) -> None:
        self._length, self._shards = config.clip, shards
        self._max_gap_ns = config.max_gap_s * 1e9
        self._patience = config.fresh_capacity
        beside = (config.fresh_capacity - batch_size) // max(1, config.clip - 1)
        self._max_open = max(1, min(config.fresh_capacity // (2 * config.clip), beside))
        self._open: dict[_Next, tuple[Clip, int]] = {}  # with the last capture time; the one that grew last stands last
        self._clips, self._pairs = [0] * shards, [0] * shards  # open ones of each process, counted as they change
        self._dealt = [0] * shards  # pairs that each process was given
        height, width = config.canvas
        self.max_bytes = self._max_open * (config.clip - 1) * 2 * height * width * 3

    @property
    def waiting(self) -> int:
        """Number of pairs in open clips."""
        return sum(self._pairs)

    def waiting_for(self, owner: int) -> int:
        """Return the pairs in the open clips of a process."""
        return self._pairs[owner]

    def reserved(self, owner: int) -> int:
        """Return the pairs that the open clips of a process may still bring it, those they have included."""
        return self._length * self._clips[owner]

    def owner(self, key: int, header: Header) -> int:
        """Return the process that the pair with the next key belongs to. `interrupted` was called with its header before."""
        joined = self._open.get(_Next(header.device, header.epoch, header.seq))
        return self._opens(key) if joined is None else joined[0].owner

    def _opens(self, key: int) -> int:
        """Return the process of a clip that opens with the next key."""
        return key % self._shards if self._length == 1 else self._dealt.index(min(self._dealt))

    def interrupted(self, pair: EncodedPair, *, is_used: bool = True) -> list[Clip]:
        """Close the clip that waits for this pair, if the pair cannot join it, and return it.

        is_used: False for a pair that enters no clip.
        """
        header = pair.header
        place = _Next(header.device, header.epoch, header.seq)
        if place not in self._open:
            return []
        clip, last_ns = self._open[place]
        is_near, before = 0 <= header.left_ns - last_ns <= self._max_gap_ns, clip.pairs[-1]
        is_joined = before is None or before.telemetry.episode == pair.telemetry.episode
        return [] if is_used and is_near and is_joined else [self._take(place)]

    def add(self, key: int, pair: EncodedPair | StereoPair) -> list[Clip]:
        """Put a new pair into its clip, and return the clips that are closed now, the one that grew longest ago first."""
        header = pair.header
        place = _Next(header.device, header.epoch, header.seq)
        clip = self._take(place) if place in self._open else Clip(self._opens(key))
        self._dealt[clip.owner] += 1
        clip.keys.append(key)
        clip.pairs.append(pair)
        if len(clip.keys) == self._length:
            return [*self._given_up(key), clip]
        following = place._replace(seq=header.seq + 1)
        repeated = [self._take(following)] if following in self._open else []  # the source gave the same pairs twice
        self._put(following, clip, header.left_ns)
        return [*repeated, *self._given_up(key)]

    def ended(self) -> list[Clip]:
        """Close all clips, and return them."""
        return [self._take(place) for place in tuple(self._open)]

    def _given_up(self, key: int) -> list[Clip]:
        """Close the clips that have waited for too long, or are too many, and return them. key: the newest one."""
        closed = []
        while self._open:
            place = next(iter(self._open))
            if len(self._open) <= self._max_open and self._open[place][0].keys[-1] + self._patience > key:
                break
            closed.append(self._take(place))
        return closed

    def _put(self, place: _Next, clip: Clip, last_ns: int) -> None:
        """Let a clip wait for the pair of a place. last_ns: when its last pair was captured."""
        self._open[place] = clip, last_ns
        self._clips[clip.owner] += 1
        self._pairs[clip.owner] += len(clip.keys)

    def _take(self, place: _Next) -> Clip:
        """Remove the clip that waits for the pair of a place, and return it."""
        clip, _ = self._open.pop(place)
        self._clips[clip.owner] -= 1
        self._pairs[clip.owner] -= len(clip.keys)
        return clip

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, without the pairs themselves."""
        rows = [[*place, last_ns, clip.owner, list(clip.keys)] for place, (clip, last_ns) in self._open.items()]
        return {"dealt": list(self._dealt), "open": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; `sifted` brings its pairs back."""
        dealt = [int(pairs) for pairs in state.get("dealt", ())]  # of another number of processes: all are equal again
        self._dealt = dealt if len(dealt) == self._shards else [0] * self._shards
        self.ended()
        for device, epoch, seq, last_ns, owner, keys in state["open"]:
            clip = Clip(owner % self._shards, list(keys), [None] * len(keys))
            self._put(_Next(device, epoch, seq), clip, last_ns)

    def sifted(self, state: Mapping[str, Any], pairs: Iterable[EncodedPair | None]) -> Iterator[EncodedPair | None]:
        """Take those in open clips out of the pairs of a learner's state that are not held out, and yield those in memory."""
        keys = np.sort(np.concatenate([np.asarray(state["memory"]["keys"], np.int64), open_keys(state)]))
        places = {key: (clip, row) for clip, _ in self._open.values() for row, key in enumerate(clip.keys)}
        for key, pair in zip(keys.tolist(), pairs, strict=True):
            if key in places:
                clip, row = places[key]
                clip.pairs[row] = pair
            else:
                yield pair


def open_keys(state: Mapping[str, Any]) -> Keys:
    """Return the keys of the pairs in open clips of a learner's state: int64 [n]."""
    return np.array([key for *_, keys in state.get("clips", ALL_CLOSED)["open"] for key in keys], np.int64)
