"""A hash table in numpy from keys to slots: a dict of Python's integers would take five times the memory.

Whole batches of keys are looked up, put and removed; Python runs a few steps for the longest chain of a batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from buffer.validation import require

Keys = NDArray[np.int64]
Slots = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: consecutive keys fall far apart (Knuth vol. 3, 6.4)


class KeyIndex:
    """Knows the key of each slot and the slot of each key, for 1 to 2**31 - 1 slots.

    Slots whose keys share a bucket form a chain. One array holds all links: first the head of each bucket, then the
    next of each slot; -1 ends a chain.
    """

    def __init__(self, capacity: int) -> None:
        bits = capacity.bit_length() + 1  # two to four buckets for each slot: few keys share one
        self._buckets, self._shift = 1 << bits, np.uint64(64 - bits)
        self._links = np.full(self._buckets + capacity, -1, np.int32)
        self._keys = np.zeros(capacity, np.int64)

    def keys(self, slots: Slots) -> Keys:
        """Return the keys of occupied slots."""
        return self._keys.take(slots)

    def find(self, keys: Keys) -> Slots:
        """Return the slots of the keys, -1 for a key that is not here."""
        slots = self._links.take(self._heads(keys)).astype(np.int64)
        wrong = np.flatnonzero((slots >= 0) & (self._keys.take(slots) != keys))
        while wrong.size:
            slots[wrong] = following = self._links.take(self._buckets + slots[wrong])
            wrong = wrong[(following >= 0) & (self._keys.take(following) != keys[wrong])]
        return slots

    def known(self, keys: Keys) -> Slots:
        """Return the slots of keys that are all here. Raises KeyError."""
        slots = self.find(keys)
        unknown = keys[slots < 0]
        if unknown.size:
            raise KeyError(
                f"{unknown.size} keys are not in the reservoir, such as {unknown[:8].tolist()}: leave out what was evicted"
            )
        return slots

    def new(self, keys: Keys) -> Keys:
        """Return the keys, which are distinct and none of which is here. Raises ValueError."""
        ordered = np.sort(keys)
        require(bool(np.all(ordered[1:] != ordered[:-1])), "offered keys", "distinct", keys[:8].tolist())
        known = keys[self.find(keys) >= 0]
        require(known.size == 0, "offered keys", "new", f"{known[:8].tolist()}, which are kept already")
        return keys

    def put(self, slots: Slots, keys: Keys) -> None:
        """Give distinct free slots to distinct keys that are not here."""
        self._keys[slots] = keys
        heads = self._heads(keys)
        while slots.size:
            self._links[self._buckets + slots] = self._links[heads]
            self._links[heads] = slots
            behind = self._links[heads] != slots  # another slot of the batch has taken the same head
            slots, heads = slots[behind], heads[behind]

    def remove(self, slots: Slots) -> None:
        """Free distinct occupied slots."""
        links = self._heads(self._keys.take(slots))
        rounds = []
        while slots.size:
            here = self._links.take(links) == slots
            rounds.append((links[here], slots[here]))
            links, slots = self._buckets + self._links.take(links[~here]), slots[~here]
        for links, slots in reversed(rounds):  # from the ends of the chains: the links behind a slot are right by then
            self._links[links] = self._links.take(self._buckets + slots)

    def _heads(self, keys: Keys) -> Slots:
        return (keys.astype(np.uint64) * _GOLDEN >> self._shift).astype(np.int64)
