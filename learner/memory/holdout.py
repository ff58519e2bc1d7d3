"""The pairs that are held out: stretches of each stream that are never trained on, so that they can judge what was learned. Pure.

The numbers of an epoch are cut into blocks of STRETCH pairs. A share of the blocks is held out, evenly spread, from a block on
that a hash of seed, device and the first half of the epoch decides. The other half of a local epoch is the time when it began
(`device.cli.local`), and a folder has to be divided in the same way each time. Whether a pair is held out follows from its header
alone: a resumed run, a pair that arrives late and another process come to the same answer. Neighbours in time are nearly the same
picture; so the first and the last GAP pairs of a stretch are not trained on either, and measure nothing.

Of the others a bounded number is kept for the probe (`learner.probes.stream_probe`): whole stretches, those with the smallest
hashes. That is a uniform sample of all stretches so far, whatever the order in which they came (bottom-k sampling).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from buffer.index import Keys
from learner.memory.assembler import open_keys
from learner.memory.slots import Slots

if TYPE_CHECKING:  # the bench on a GPU runs without the packages of the stream
    from stream.pair import EncodedPair, Header, StereoPair

STRETCH = 24
"""Pairs in a held-out stretch, with its gaps. Never change it or GAP: a run that goes on would train on other pairs."""
GAP = 4
"""Pairs at each end of a stretch that are held out and not measured."""
CAPACITY = 512
"""Pairs that are kept for the probe at most."""
MAX_SHARE = 0.5
NOTHING: Mapping[str, Any] = {"keys": (), "count": 0}
"""The state of a run of an earlier version, which held nothing out."""
_WHOLE = 1 << 32
_DECISIVE_DIGITS, _ALL_DIGITS = 16, 32


class Stretch(NamedTuple):
    """A block of pairs of one epoch: the pairs `block * STRETCH` to `(block + 1) * STRETCH - 1`."""

    device: str
    epoch: str
    block: int


class Rule(NamedTuple):
    """The rule which pairs are held out. share: of all pairs, 0 to MAX_SHARE. seed: that of the run.

    epoch_digits: how many digits of an epoch decide; all of them in runs of earlier versions.
    """

    share: float
    seed: int
    epoch_digits: int = _DECISIVE_DIGITS

    def holds(self, header: Header) -> bool:
        """Return whether a pair is never trained on."""
        part = round(self.share * _WHOLE)
        first = _hash(self.seed, header.device, header.epoch[: self.epoch_digits])
        # The shares of the blocks before it, counted from a number that the epoch decides: this block brings the next whole one.
        before = (header.seq // STRETCH * part + first % _WHOLE) % _WHOLE
        return before + part >= _WHOLE

    def rank(self, stretch: Stretch) -> int:
        """Return the place of a stretch in the order in which stretches are kept for the probe: a lower one stays longer."""
        return _hash(self.seed, stretch.device, stretch.epoch[: self.epoch_digits], stretch.block)


def is_in_gap(header: Header) -> bool:
    """Return whether a held-out pair lies at an end of its stretch, where it measures nothing."""
    return not GAP <= header.seq % STRETCH < STRETCH - GAP


def stretch_of(header: Header) -> Stretch:
    """Return the block that a pair belongs to."""
    return Stretch(header.device, header.epoch, header.seq // STRETCH)


class HeldOut:
    """The held-out pairs of a run: how many there were, and those that are kept for the probe.

    count: pairs that were not trained on because of the rule, gaps included. slots: the pairs that are kept, their images on
    the canvas. kept: their keys, by stretch and by seq.
    """

    def __init__(self, rule: Rule, canvas: tuple[int, int]) -> None:
        self.rule = rule
        self.slots = Slots(CAPACITY if rule.share else 0, canvas)
        self.kept: dict[Stretch, dict[int, int]] = {}
        self.count = 0

    def wants(self, header: Header) -> bool:
        """Return whether a held-out pair is kept for the probe: no gap, not there yet, and its stretch has or takes a place."""
        stretch = stretch_of(header)
        if is_in_gap(header) or header.seq in self.kept.get(stretch, ()):
            return False
        return stretch in self.kept or len(self.kept) < _STRETCHES or self.rule.rank(stretch) < self._last()[0]

    def add(self, pair: StereoPair, key: int) -> None:
        """Count a pair that is wanted, and keep it under a new key, its images on the canvas."""
        self.count += 1
        self._put(pair, key)
        if len(self.kept) > _STRETCHES:
            self.slots.release(self.kept.pop(self._last()[1]).values())

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, without the pairs themselves."""
        return {"keys": self.slots.keys(), "count": self.count, "epoch_digits": self.rule.epoch_digits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; `sifted` brings its pairs back."""
        self.slots.clear()
        self.kept.clear()
        self.count = int(state["count"])
        self.rule = self.rule._replace(epoch_digits=int(state.get("epoch_digits", _ALL_DIGITS)))

    def sifted(
        self,
        state: Mapping[str, Any],
        pairs: Iterable[EncodedPair | None],
        decode: Callable[[EncodedPair], StereoPair | None],
    ) -> Iterator[EncodedPair | None]:
        """Take the held-out ones of the pairs of `stored_keys(state)`, and yield the others, which are in memory or open clips.

        None stands for a pair that cannot be read any more: the probe goes on without it.
        """
        held = set(np.asarray(state.get("holdout", NOTHING)["keys"]).tolist())
        for key, pair in zip(stored_keys(state).tolist(), pairs, strict=True):
            if key not in held:
                yield pair
            elif pair is not None and (decoded := decode(pair)) is not None:
                self._put(decoded, key)

    def _put(self, pair: StereoPair, key: int) -> None:
        self.slots.put(key, pair)
        self.kept.setdefault(stretch_of(pair.header), {})[pair.header.seq] = key

    def _last(self) -> tuple[int, Stretch]:
        """Return the kept stretch with the largest hash, behind that hash."""
        return max((self.rule.rank(stretch), stretch) for stretch in self.kept)


_STRETCHES = CAPACITY // (STRETCH - 2 * GAP) - 1
"""Stretches that are kept; there are slots for one more, because a pair comes before a stretch goes."""


def stored_keys(state: Mapping[str, Any]) -> Keys:
    """Return the keys of all pairs of a learner's state: in memory, in open clips and held out, rising, int64 [n]."""
    held = np.asarray(state.get("holdout", NOTHING)["keys"], np.int64)
    return np.sort(np.concatenate([np.asarray(state["memory"]["keys"], np.int64), open_keys(state), held]))


@lru_cache(maxsize=256)
def _hash(*words: object) -> int:
    return int.from_bytes(hashlib.blake2b("/".join(map(str, words)).encode(), digest_size=8).digest())
