"""An answer to a consumer that asks for a range of pairs. Pure rules: the rows come from a function that is passed in."""

from __future__ import annotations

from collections.abc import Callable

from stream.codec import TOPIC, from_parts
from stream.errors import MalformedMessage
from stream.live.backfill_messages import MAX_LOST_RANGES, MAX_ROWS, PairParts, Reading
from stream.ranges import Ranges


class NotNow(Exception):
    """A row cannot be read at this moment; a later attempt may succeed."""


class Answer:
    """An answer that grows: everything in [first, next) is among its rows, or in its lost ranges.

    credit_bytes: the sum of image bytes that it may carry; the first row may be larger.
    """

    def __init__(self, device: str, epoch: str, first: int, credit_bytes: int) -> None:
        self.next = first
        self._device, self._epoch, self._credit_bytes = device, epoch, credit_bytes
        self._rows: list[PairParts] = []
        self._lost = Ranges()
        self._looked_at = 0

    def reading(self) -> Reading:
        """Return the answer as `Shelf.read` returns it."""
        return Reading(self.next, list(self._lost), self._rows)

    def lose(self, end: int) -> None:
        """All pairs from `next` up to `end` are lost."""
        self._lost.add(self.next, end)
        self.next = max(self.next, end)

    def extend(self, end: int, row_of: Callable[[int], PairParts | None]) -> Ranges:
        """Add the pairs from `next` up to `end`; returns those that are unreadable.

        `next` stays below `end` where the answer is complete: its credit is used up, or a row cannot be read now.
        row_of: from a number to its row, None for one that is unreadable; raises NotNow.
        """
        unreadable = Ranges()
        while self.next < end and not self._is_full():
            self._looked_at += 1
            try:
                row = row_of(self.next)
            except NotNow:
                break
            if row is None or not self._is_valid(row):
                unreadable.add(self.next, self.next + 1)
                self.lose(self.next + 1)
            elif not self._add(row):
                break
        return unreadable

    def _is_full(self) -> bool:
        return self._credit_bytes <= 0 or self._looked_at == MAX_ROWS or len(self._lost) == MAX_LOST_RANGES

    def _is_valid(self, row: PairParts) -> bool:
        """Return whether a row passes its own checksums and is the pair that was asked for."""
        try:
            header = from_parts([TOPIC, *row]).header
        except MalformedMessage:
            return False
        return (header.device, header.epoch, header.seq) == (self._device, self._epoch, self.next)

    def _add(self, row: PairParts) -> bool:
        """Add a row, the first one whatever its size; False if the credit does not reach."""
        size_bytes = len(row[1]) + len(row[2])
        fits = not self._rows or size_bytes <= self._credit_bytes
        if fits:
            self._rows.append(row)
            self._credit_bytes -= size_bytes
            self.next += 1
        return fits
