"""What brings the rows of two images together: a calibration, or a shift."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from stream.calibration.file import read_calibration
from stream.calibration.rectify import Rectifier
from stream.calibration.rows import shifted
from stream.calibration.stereo import StereoCalibration
from stream.image import Image

RECORDINGS = frozenset({".mcap", ".bag", ".db3"})
log = logging.getLogger(__name__)


class Align(Protocol):
    """Brings two images to equal rows."""

    def apply(self, left: Image, right: Image) -> tuple[Image, Image]:
        """Return both images, or the same objects if nothing has to be done.

        Raises CalibrationError or ValueError for images that do not fit.
        """


class Shift:
    """Cuts off the rows that only one image has. rows: how many pixels lower things are in the right image."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def apply(self, left: Image, right: Image) -> tuple[Image, Image]:
        """See Align."""
        return shifted(left, right, self.rows) if self.rows else (left, right)


def aligner(rectify: Sequence[Path], rows: int | None) -> Align | None:
    """Return what a calibration or a shift does; None if there is nothing to do.

    rectify: the files of a calibration (`read_calibration`), or a recording of another tool that holds one. Raises StreamError.
    """
    if not rectify:
        return Shift(rows) if rows else None
    calibration = calibration_in(rectify)
    if not calibration.rectified:
        return Rectifier(calibration)
    log.warning("%s says that rows agree already: nothing is done", ", ".join(map(str, rectify)))
    return None


def calibration_in(rectify: Sequence[Path]) -> StereoCalibration:
    """Return the calibration in its files, or in a recording. Raises StreamError."""
    return _recorded(rectify[0]) if len(rectify) == 1 and _is_recording(rectify[0]) else read_calibration(rectify)


def _is_recording(path: Path) -> bool:
    """Return whether a path is a recording: by its suffix, or as the folder of a ROS 2 bag."""
    return path.suffix.lower() in RECORDINGS or (path / "metadata.yaml").is_file()


def _recorded(path: Path) -> StereoCalibration:
    from stream.calibration.camera_info import recorded_calibration  # a rig has little memory, and reads no recordings

    return recorded_calibration(path)
