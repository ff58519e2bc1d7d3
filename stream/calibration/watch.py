"""Measures from time to time how far the rows of running rigs are apart, so seldom that it costs next to nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from stream.calibration.rows import RowOffset, matched_rows, row_offset
from stream.calibration.stereo import Floats
from stream.image import Image

EVERY_S = 30.0
"""A device is measured at most this often: 40 ms of a core for a pair of VGA size."""
PAIRS = 6
"""So many measured pairs of a device count together."""


@dataclass(slots=True)
class _Measured:
    due_s: float = 0.0
    rows: deque[Floats] = field(default_factory=lambda: deque(maxlen=PAIRS))
    offset: RowOffset | None = None


class RowWatch:
    """The row offset of devices. clock: seconds, monotonic. Its user has one thread, or a lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._devices: dict[str, _Measured] = {}

    def offset(self, device: str, read: Callable[[], tuple[Image, Image]]) -> RowOffset | None:
        """Return the offset of a device as it was measured last; None if too few corners were found again.

        read: returns the left and the right image of its newest pair; it is called only if the last measurement is EVERY_S old.
        """
        known = self._devices.setdefault(device, _Measured(due_s=self._clock()))
        if self._clock() >= known.due_s:
            known.due_s = self._clock() + EVERY_S
            left, right = read()
            known.rows.append(matched_rows(left, right))
            known.offset = row_offset(known.rows, left.shape[0])
        return known.offset
