"""The contract of everything that pairs come from: live stream, recording, folder of images, simulator."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Protocol

from stream.errors import EndOfStream
from stream.pair import EncodedPair, Header
from stream.stats import SourceStats

Cursor = dict[str, Any]
"""Identifies all pairs that a source has given so far, as JSON values. Only a source of the same kind understands it."""


class Source(Protocol):
    """Gives pairs in their order, each of them once. A learner uses these methods and no others.

    The cursor survives the learner. It is read after a `receive` whose pairs the learner has, stored together with the weights
    learned from them, then acknowledged, and given to the source of the next process.
    """

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        """Return up to `limit` (>= 1) pairs, waiting at most `timeout_s` for the first one; [] if there was none.

        Raises EndOfStream once the last pair of a finite source has been given.
        """

    def backlog(self) -> int:
        """Return how many pairs wait to be received; 0 for a source that makes them on demand."""

    def cursor(self) -> Cursor:
        """Return the cursor of all pairs that `receive` has given, in this process and the earlier ones."""

    def acknowledge(self, cursor: Cursor) -> None:
        """Report that the pairs of a cursor are durable, so that the rig may delete them. Returns at once."""

    def spoil(self, header: Header) -> None:
        """Report that a received pair cannot be used: it counts as lost, also in the cursor."""

    def stats(self) -> SourceStats | None:
        """Return how many pairs were received, lost and dropped, by device; None for a source without such statistics."""

    def close(self) -> None:
        """Free the resources of the source; idempotent."""


class OnDemandSource:
    """Base of the sources that make each pair when it is requested."""

    def backlog(self) -> int:
        """Return 0: each pair is made when it is requested, so none waits."""
        return 0

    def acknowledge(self, cursor: Cursor) -> None:
        """Do nothing: no pair is kept for us until we acknowledge it."""

    def spoil(self, header: Header) -> None:
        """Do nothing: without statistics nothing is counted."""

    def stats(self) -> None:
        """Return None: no pair is sent over a network."""


class IteratorSource(OnDemandSource):
    """Makes a Source of any iterator of encoded pairs. Each pair is made when it is requested, so the learner sets the pace.

    A benchmark is then repeatable: an equal iterator gives the same pairs at the same training steps. cursor: of an earlier
    source over an equal iterator; its pairs are made again and skipped. Raises ValueError for any other cursor.
    """

    def __init__(self, pairs: Iterable[EncodedPair], *, cursor: Cursor | None = None) -> None:
        given = 0 if cursor is None else cursor.get("given")
        if type(given) is not int or given < 0:
            raise ValueError("this is not the cursor of pairs that are made on demand")
        self._given = given
        self._pairs = islice(pairs, given, None)
        self._close = getattr(pairs, "close", None)

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        """See Source. It never waits; `timeout_s` is not used."""
        pairs = list(islice(self._pairs, limit))
        if not pairs:
            raise EndOfStream("the source has given its last pair")
        self._given += len(pairs)
        return pairs

    def cursor(self) -> Cursor:
        """Return the number of given pairs, as a cursor."""
        return {"given": self._given}

    def close(self) -> None:
        """Close the iterator if it can be closed (a generator then runs its `finally`)."""
        if self._close is not None:
            self._close()
