"""From a segment to the answer that a learner gets: every row is verified before it is given, the others are lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

from device.spool.segment import Segment, is_not_now
from stream.codec import TOPIC, from_parts
from stream.errors import MalformedMessage
from stream.live.backfill_messages import MAX_LOST_RANGES, MAX_ROWS, Reading, Row
from stream.ranges import Ranges


@dataclass(slots=True)
class Answer:
    """An answer as it comes about: everything from its first number to `next` is among the rows, or lost.

    credit_bytes: of images, that may still be given.
    """

    device: str
    next: int
    credit_bytes: int
    rows: list[Row] = field(default_factory=list)
    lost: Ranges = field(default_factory=Ranges)
    _looked_at: int = 0

    def reading(self) -> Reading:
        """The answer as it is."""
        return Reading(self.next, list(self.lost), self.rows)

    def lose(self, upto: int) -> None:
        """What is below `upto` will never be there."""
        self.lost.add(self.next, upto)
        self.next = max(self.next, upto)

    def take(self, segment: Segment, upto: int) -> tuple[bool, Ranges]:
        """Add the pairs of a segment below `upto`.

        Returns whether to go on: not where the credit is used up, or the segment cannot be read at this moment; and which of
        its pairs turned out to be rotten.
        """
        rotten = Ranges()
        with segment.reading() as row_of:
            while self.next < upto:
                if self.credit_bytes <= 0 or self._looked_at == MAX_ROWS or len(self.lost) == MAX_LOST_RANGES:
                    return False, rotten
                self._looked_at += 1
                try:
                    row = self._verified(row_of, segment)
                except sqlite3.Error as error:
                    if segment.dropped or (is_not_now(error) and segment.path.exists()):
                        return False, rotten
                    row = None
                if row is None:
                    rotten.add(self.next, self.next + 1)
                    self.lose(self.next + 1)
                elif not self._give(row):
                    return False, rotten
        return True, rotten

    def _verified(self, row_of: Callable[[int], Row | None], segment: Segment) -> Row | None:
        row = row_of(self.next)
        if row is None:
            return None
        try:
            header = from_parts([TOPIC, *row]).header
        except MalformedMessage:
            return None
        asked = (self.device, segment.epoch, self.next)
        return row if (header.device, header.epoch, header.seq) == asked else None

    def _give(self, row: Row) -> bool:
        size = len(row[1]) + len(row[2])
        if self.rows and size > self.credit_bytes:
            return False
        self.rows.append(row)
        self.credit_bytes -= size
        self.next += 1
        return True
