"""A reply to a consumer that asks for a range of pairs. Pure rules: a function that is passed in reads the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from device.spool.segment import Segment
from stream.codec import TOPIC, from_parts
from stream.errors import MalformedMessage
from stream.live.backfill_messages import MAX_LOST_RANGES, MAX_ROWS, PairParts, Reading
from stream.ranges import Ranges

RowReader = Callable[[int], PairParts | None]
"""Returns the row with a number, or None if it cannot be read; raises NotNow if a later attempt may succeed."""


class NotNow(Exception):
    """A row cannot be read at this moment; a later attempt may succeed."""


class Reply:
    """A reply that grows: every number in [first, next) is either among its rows or in its lost ranges.

    credit_bytes: limit of the bytes of pairs that it carries; the first row may exceed it.
    """

    def __init__(self, device: str, epoch: str, first: int, credit_bytes: int) -> None:
        self._next = first
        self._device, self._epoch, self._credit_bytes = device, epoch, credit_bytes
        self._rows: list[PairParts] = []
        self._lost = Ranges()
        self._looked_at = 0

    def fill(
        self,
        plan: Sequence[tuple[Segment, int]],
        known_end: int,
        *,
        rows_of: Callable[[Segment], AbstractContextManager[RowReader]],
        on_rot: Callable[[Segment, Ranges], None],
    ) -> Reading:
        """Read the segments of `Inventory.plan_read`, one after the other; return the reply as `Shelf.read` returns it.

        rows_of: opens a segment to read its rows. on_rot: called with the pairs of a segment that cannot be read.
        """
        for segment, end in plan:
            self._lose(segment.first)
            with rows_of(segment) as row_of:
                unreadable = self._extend(end, row_of)
            on_rot(segment, unreadable)
            if self._next < end:
                break
        else:
            self._lose(known_end)
        return Reading(self._next, list(self._lost), self._rows)

    def _lose(self, end: int) -> None:
        """Add all numbers from `next` up to `end` to the lost ranges."""
        self._lost.add(self._next, end)
        self._next = max(self._next, end)

    def _extend(self, end: int, row_of: RowReader) -> Ranges:
        """Add the pairs from `next` up to `end` to the reply; return those that cannot be read, which count as lost.

        The reply may end earlier: when its credit is used up, or when a row cannot be read now. `next` is then below `end`.
        """
        unreadable = Ranges()
        while self._next < end and not self._is_full():
            self._looked_at += 1
            try:
                row = row_of(self._next)
            except NotNow:
                break
            if row is None or not self._is_valid(row):
                unreadable.add(self._next, self._next + 1)
                self._lose(self._next + 1)
            elif not self._add(row):
                break
        return unreadable

    def _is_full(self) -> bool:
        return self._credit_bytes <= 0 or self._looked_at == MAX_ROWS or len(self._lost) == MAX_LOST_RANGES

    def _is_valid(self, row: PairParts) -> bool:
        """Return whether the checksums of a row are right, and whether it is the requested pair."""
        try:
            header = from_parts([TOPIC, *row]).header
        except MalformedMessage:
            return False
        return (header.device, header.epoch, header.seq) == (self._device, self._epoch, self._next)

    def _add(self, row: PairParts) -> bool:
        """Add a row; return False if the credit is too small for it. The first row is always added."""
        size_bytes = sum(map(len, row))
        fits = not self._rows or size_bytes <= self._credit_bytes
        if fits:
            self._rows.append(row)
            self._credit_bytes -= size_bytes
            self._next += 1
        return fits
