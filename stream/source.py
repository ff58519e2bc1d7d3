"""One contract for everything pairs come from: live stream, recording, folder of images, simulator."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Protocol

from stream.errors import EndOfStream
from stream.pair import EncodedPair
from stream.stats import SourceStats

Cursor = dict[str, Any]
"""Which pairs a source has given so far, as JSON values; only a source of the same kind understands it."""


class Source(Protocol):
    """Gives pairs in their order, none of them twice. A learner drives it and nothing else.

    What survives the learner is the cursor: taken after a `receive` whose pairs are in the learner's hands, made durable
    together with what it learned from them, then acknowledged, and given to the source of the next process.
    """

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        """Up to `limit` (>= 1) pairs, waiting at most `timeout_s` for the first one; [] where none came.

        Raises EndOfStream once the last pair of a finite source has been given.
        """

    def backlog(self) -> int:
        """How many pairs wait to be received: 0 for a source that makes them on demand."""

    def cursor(self) -> Cursor:
        """Which pairs `receive` has given, also those of the processes before this one."""

    def acknowledge(self, cursor: Cursor) -> None:
        """Everything that `cursor` names is durable now: where it came from may forget it. Returns at once."""

    def stats(self) -> SourceStats | None:
        """What has been received, lost and dropped, by device; None where a source keeps no such statistics."""

    def close(self) -> None:
        """Free what the source holds; idempotent."""


class IteratorSource:
    """Any iterator of encoded pairs as a Source: each pair is made when it is asked for, so the learner sets the pace.

    That is what makes a benchmark repeatable: the same iterator gives the same pairs at the same training steps.
    cursor: of an earlier source over an equal iterator; what that one gave is made again and skipped. Raises ValueError
    where it is none.
    """

    def __init__(self, pairs: Iterable[EncodedPair], *, cursor: Cursor | None = None) -> None:
        given = 0 if cursor is None else cursor.get("given")
        if type(given) is not int or given < 0:
            raise ValueError("this is not the cursor of pairs that are made on demand")
        self._given = given
        self._pairs = islice(pairs, given, None)
        self._close = getattr(pairs, "close", None)

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        """See Source; never waits, `timeout_s` is not used."""
        pairs = list(islice(self._pairs, limit))
        if not pairs:
            raise EndOfStream("the source has given its last pair")
        self._given += len(pairs)
        return pairs

    def backlog(self) -> int:
        """Nothing waits: pairs are made on demand."""
        return 0

    def cursor(self) -> Cursor:
        """How many pairs were given."""
        return {"given": self._given}

    def acknowledge(self, cursor: Cursor) -> None:
        """Nobody holds a pair for us."""

    def stats(self) -> None:
        """There are no statistics: nothing travels."""

    def close(self) -> None:
        """Close the iterator where it can be closed (a generator runs its `finally`)."""
        if self._close is not None:
            self._close()
