"""A camera whose images have equal rows: rectified by a calibration, or without the rows that only one of them has.

Images are decoded for that, so a camera's own JPEG is encoded again. Where rows agree already, shots are passed on untouched.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np

from device.camera import BadShot, Camera, CameraSettings, Shot, pixels_of
from stream.calibration import align
from stream.calibration.align import Align, Shift
from stream.calibration.rows import MIN_MATCHES, matched_rows, row_offset
from stream.calibration.stereo import CalibrationError, Floats
from stream.image import Image

MEASURED = 8
"""So many shots with enough matches decide the shift."""
MAX_WAITING = 30
MAX_WAITING_BYTES = 48 << 20
"""Shots that wait for the shift are at most so many, and hold at most so many bytes and one shot more."""
AGAIN = 30
"""Afterwards each so many-th shot is measured until the shift is known."""

log = logging.getLogger(__name__)


class AutoShift(Shift):
    """A shift that is measured; until it is `known`, nothing is cut off."""

    def __init__(self) -> None:
        super().__init__(0)
        self.known = False
        self._rows: list[Floats] = []
        self._height = 1

    def measure(self, left: Image, right: Image) -> None:
        """Look at two images. After MEASURED pairs with enough matches the shift is known, if these agree."""
        rows = np.zeros(0) if self.known else matched_rows(left, right)
        if len(rows) < MIN_MATCHES:
            return
        self._rows = [*self._rows[1 - MEASURED :], rows]
        self._height = left.shape[0]
        if len(self._rows) == MEASURED:
            self.decide()

    def decide(self) -> None:
        """Decide by what was measured until now; it stays unknown if too few matches agree."""
        offset = None if self.known else row_offset(self._rows, self._height)
        if offset is not None:
            self.rows, self.known = round(offset.px), True
            done = f"{abs(self.rows)} rows are cut off" if self.rows else "nothing has to be cut off"
            log.warning("%s: %s", offset.describe(), done)


class AlignedCamera:
    """Aligns the shots of a camera."""

    def __init__(self, camera: Camera, how: Align) -> None:
        self.fps = camera.fps
        self._camera = camera
        self._align = how
        self._fits = False

    def __iter__(self) -> Iterator[Shot | BadShot]:
        """Yield the shots. Raises CalibrationError if the first one does not fit; a later one is a BadShot then."""
        shots = iter(self._camera)
        if isinstance(self._align, AutoShift):
            shots = self._measured(shots, self._align)
        for shot in shots:
            try:
                yield shot if isinstance(shot, BadShot) else self._aligned(shot)
            except BadShot as bad:
                yield bad

    def close(self) -> None:
        """Close the camera."""
        self._camera.close()

    def _aligned(self, shot: Shot) -> Shot:
        if isinstance(self._align, Shift) and not self._align.rows:
            return shot
        left, right = pixels_of(shot.left), pixels_of(shot.right)
        try:
            one, other = self._align.apply(left, right)
        except (CalibrationError, ValueError) as error:
            if not self._fits:
                raise CalibrationError(str(error)) from error
            raise BadShot(str(error)) from error
        self._fits = True
        if one is left and other is right:
            return shot
        eyes = ((shot.left, one), (shot.right, other))
        aligned = [replace(eye, pixels=pixels, jpeg=None, luma=None) for eye, pixels in eyes]
        return replace(shot, left=aligned[0], right=aligned[1])

    def _measured(self, shots: Iterator[Shot | BadShot], shift: AutoShift) -> Iterator[Shot | BadShot]:
        """Yield the shots; the first ones wait until the shift is known, or too many wait."""
        waiting: list[Shot | BadShot] = []
        size = 0
        for shot in shots:
            waiting.append(shot)
            if isinstance(shot, Shot):
                size += _measure(shot, shift)
            if shift.known or len(waiting) >= MAX_WAITING or size > MAX_WAITING_BYTES:
                break
        shift.decide()
        if not shift.known:
            log.warning(
                "too few corners are found again to measure the vertical offset: images stay as they are till then"
            )
        yield from waiting
        for number, shot in enumerate(shots, start=1):
            if not shift.known and number % AGAIN == 0 and isinstance(shot, Shot):
                _measure(shot, shift)
            yield shot


def _measure(shot: Shot, shift: AutoShift) -> int:
    """Let a shot be measured, and return the bytes that it holds."""
    with suppress(BadShot):  # it is counted when it is yielded
        shift.measure(pixels_of(shot.left), pixels_of(shot.right))
    return sum(
        len(eye.jpeg) if eye.jpeg is not None else eye.pixels.nbytes if eye.pixels is not None else 0
        for eye in (shot.left, shot.right)
    )


def aligner(settings: CameraSettings) -> Align | None:
    """Return what aligns the images of a camera with these settings; None if nothing does. Raises CalibrationError."""
    if settings.row_shift_px == "auto":
        return AutoShift()
    return align.aligner(settings.rectify, settings.row_shift_px)
