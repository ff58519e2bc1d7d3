"""One contract for everything pairs come from: live stream, folder of images, simulator, and later a recording."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Protocol

from stream.errors import EndOfStream
from stream.pair import EncodedPair


class Source(Protocol):
    """Gives pairs in their order. A learner drives it and nothing else."""

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        """Up to `limit` (>= 1) pairs, waiting at most `timeout_s` for the first one; [] where none came.

        Raises EndOfStream once the last pair of a finite source has been given.
        """

    def backlog(self) -> int:
        """How many pairs wait to be received: 0 for a source that makes them on demand."""

    def close(self) -> None:
        """Free what the source holds; idempotent."""


class IteratorSource:
    """Any iterator of encoded pairs as a Source: each pair is made when it is asked for, so the learner sets the pace.

    That is what makes a benchmark repeatable: the same iterator gives the same pairs at the same training steps.
    """

    def __init__(self, pairs: Iterable[EncodedPair]) -> None:
        self._pairs = iter(pairs)

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        """See Source; never waits, `timeout_s` is not used."""
        pairs = list(islice(self._pairs, limit))
        if not pairs:
            raise EndOfStream("the source has given its last pair")
        return pairs

    def backlog(self) -> int:
        """Nothing waits: pairs are made on demand."""
        return 0

    def close(self) -> None:
        """Close the iterator where it can be closed (a generator runs its `finally`)."""
        close = getattr(self._pairs, "close", None)
        if close is not None:
            close()
