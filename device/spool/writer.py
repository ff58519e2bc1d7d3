"""Writes a pair to the spool: room is made first, and a segment that is full or damaged is replaced by a new one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from device.spool.folder import SpoolFolder
from device.spool.rules import SpoolRules
from device.spool.segment import Segment, State
from device.spool.segment_file import SegmentFile, is_disk_full, row_bytes
from stream.live.backfill_messages import PairParts


@dataclass
class Writer:
    """Carries out the rules for a new pair. The caller's lock guards it."""

    rules: SpoolRules
    files: SpoolFolder
    clock: Callable[[], float]
    """Monotonic seconds."""
    wall: Callable[[], float]
    """Seconds since 1970."""
    free_bytes: Callable[[], int]
    """Free bytes on the disk; may raise OSError."""
    on_refusal: Callable[[str], None]
    """Called when the disk refuses a pair, with the reason and the number of all refused pairs."""

    def append(self, seq: int, row: PairParts) -> SegmentFile | None:
        """Append a pair; return the file that now holds it, or None if the disk refused it."""
        file = self._append(seq, row) if self.rules.may_write(self.clock()) else None
        self.rules.offered(seq, spooled=file is not None)
        self.files.write_end(self.rules.inventory.end)
        return file

    def _append(self, seq: int, row: PairParts) -> SegmentFile | None:
        limit_bytes = self.rules.limits.segment_bytes
        reason = f"one is larger than a segment of {limit_bytes} bytes, give the spool more room"
        if row_bytes(row) <= limit_bytes:
            for _ in range(2):  # a full disk may have room after an eviction, and a damaged segment is replaced
                try:
                    if (file := self._try_append(seq, row)) is not None:
                        return file
                    reason = "nothing is left to delete, and so much of the disk must stay free"
                    break
                except (sqlite3.Error, OSError) as error:
                    self.files.remove(self.rules.write_failed(disk_full=is_disk_full(error)))
                    reason = str(error)
        self.rules.refused(self.clock())
        self.on_refusal(f"{reason} pairs={self.rules.unspooled + 1}")
        return None

    def _try_append(self, seq: int, row: PairParts) -> SegmentFile | None:
        """Append a pair; return None if no room can be made.

        If sqlite3.Error or OSError is raised, the pair is not in the spool.
        """
        enough, removal = self.rules.make_room(2 * row_bytes(row), self.free_bytes(), self.clock())
        self.files.remove(removal)
        if not enough:
            return None
        segment = self._segment_for(seq, row)
        file = self.files.files[segment]
        file.append(seq, row)
        self.rules.appended(segment, file.size())
        return file

    def _segment_for(self, seq: int, row: PairParts) -> Segment:
        """Return the open segment if the pair fits into it, otherwise a new one."""
        segment = self.rules.open
        if segment is None or not self.rules.fits_open(seq, row_bytes(row)):
            self.files.remove(self.rules.close_open())
            epoch, begun_s = self.rules.inventory.epoch, self.wall()
            segment = Segment(self.files.run, epoch, first=seq, end=seq, state=State.OPEN, begun_s=begun_s)
            self.files.create(segment)
            self.rules.begin(segment)
        return segment
