"""Pairs that were received and wait for the learner. Pure, and not thread-safe."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from stream.pair import EncodedPair


class PairQueue:
    """A queue (first in, first out) that is bounded by the number of pairs and by the bytes of their headers and images.

    The owner checks `has_room` before it receives. What it then receives always enters, even if this exceeds a bound.
    """

    def __init__(self, max_pairs: int, max_bytes: int) -> None:
        if max_pairs < 1 or max_bytes < 1:
            raise ValueError(f"a queue holds at least 1 pair and 1 byte, got {max_pairs} and {max_bytes}")
        self._max_pairs, self._max_bytes = max_pairs, max_bytes
        self._pairs: deque[EncodedPair] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._pairs)

    def has_room(self) -> bool:
        """Return whether both bounds leave room."""
        return len(self._pairs) < self._max_pairs and self._bytes < self._max_bytes

    def extend(self, pairs: Iterable[EncodedPair]) -> None:
        """Append pairs."""
        for pair in pairs:
            self._pairs.append(pair)
            self._bytes += pair.size_bytes

    def pop(self, limit: int) -> list[EncodedPair]:
        """Remove the oldest pairs, at most `limit`, and return them."""
        pairs = [self._pairs.popleft() for _ in range(min(limit, len(self._pairs)))]
        self._bytes -= sum(pair.size_bytes for pair in pairs)
        return pairs

    def clear(self) -> None:
        """Remove all pairs."""
        self.pop(len(self))
