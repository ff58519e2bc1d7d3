"""Calibrates two cameras from views of a board, and judges the result by views that it has not used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from device.board.charuco import Board
from device.board.views import View
from stream.calibration.rectify import row_errors
from stream.calibration.stereo import CalibrationError, Floats, Intrinsics, Model, StereoCalibration, floats

MIN_VIEWS = 8
HELD_OUT = 5
"""One view of so many is only used to measure the result."""
MAX_REPROJECTION_PX = 1.0
MAX_ROW_PX = 1.0
"""A worse result is refused, in images of up to REFERENCE_WIDTH; in proportion in wider ones."""
REFERENCE_WIDTH = 1280
_FEW = "calibrate with more views: near the edges, and tilted"


class CalibrationFailed(CalibrationError):
    """The views give no good calibration; others may."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a calibration is. The first two are root mean squares in pixels, over views that were not used to make it."""

    row_px: float
    """How far equal corners are apart in height after rectification."""
    row_px_before: float
    """The same, in the images as the cameras gave them."""
    reprojection_px: float
    """How far corners are from where the calibration says that they are, over the views that made it, in the worse eye."""
    views: int
    measured_views: int

    def figures(self) -> dict[str, float]:
        """Return the figures by name."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def calibrate(
    views: Sequence[View], board: Board, size: tuple[int, int], model: Model
) -> tuple[StereoCalibration, Quality]:
    """Return the calibration and its quality. size: height and width of the images.

    Raises CalibrationFailed, with the remedy, if there are too few views or the result is not good.
    """
    if len(views) < MIN_VIEWS:
        raise CalibrationFailed(f"only {len(views)} useful views, {MIN_VIEWS} are needed: {_FEW}")
    held = list(views[HELD_OUT - 1 :: HELD_OUT])
    used = [view for number, view in enumerate(views) if (number + 1) % HELD_OUT]
    places = [board.places(view.ids) for view in used]
    try:
        sides = [[view.left for view in used], [view.right for view in used]]
        solved = [_one_eye(places, points, size, model) for points in sides]
        rotation, translation = _between(places, sides, [eye for eye, _ in solved], size, model)
        found = StereoCalibration(solved[0][0], solved[1][0], rotation, translation, size, model)
        rows = np.concatenate([row_errors(found, view.left, view.right) for view in held])
    except cv2.error as error:
        raise CalibrationFailed(f"OpenCV finds no calibration in these views ({error.err}): {_FEW}") from error
    except CalibrationError as error:
        raise CalibrationFailed(f"these views make cameras that cannot be ({error}): {_FEW}") from error
    before = np.concatenate([view.right[:, 1] - view.left[:, 1] for view in held])
    quality = Quality(_rms(rows), _rms(before), max(error for _, error in solved), len(used), len(held))
    _check(quality, size)
    return found, quality


def _check(quality: Quality, size: tuple[int, int]) -> None:
    share = max(1.0, size[1] / REFERENCE_WIDTH)
    if not quality.reprojection_px <= MAX_REPROJECTION_PX * share:
        raise CalibrationFailed(
            f"corners are {quality.reprojection_px:.2f} px from where they should be, {MAX_REPROJECTION_PX * share:.1f} at most: "
            "glue the board onto something flat, hold it still in good light, and choose --model fisheye for wide lenses"
        )
    if not quality.row_px <= MAX_ROW_PX * share:
        raise CalibrationFailed(
            f"rows are still {quality.row_px:.2f} px apart, {MAX_ROW_PX * share:.1f} at most: hold the board still, because both "
            f"images are not quite of one moment (doctor's skew), and {_FEW}"
        )


def _one_eye(
    places: Sequence[Floats], points: Sequence[Floats], size: tuple[int, int], model: Model
) -> tuple[Intrinsics, float]:
    """Return the intrinsics of an eye, and the root mean square of its reprojection error in pixels."""
    width_height = (size[1], size[0])
    if model == "fisheye":
        focal = size[1] / np.pi
        guess = floats([[focal, 0.0, size[1] / 2], [0.0, focal, size[0] / 2], [0.0, 0.0, 1.0]])
        flags = cv2.CALIB_RECOMPUTE_EXTRINSIC | cv2.CALIB_FIX_SKEW | cv2.CALIB_USE_INTRINSIC_GUESS
        error, matrix, distortion, *_ = cv2.fisheye.calibrate(
            _shaped(places, 3), _shaped(points, 2), width_height, guess, np.zeros((4, 1)), flags=flags
        )
    else:
        error, matrix, distortion, *_ = cv2.calibrateCamera(
            _single(places),
            _single(points),
            width_height,
            None,
            None,
            flags=cv2.CALIB_FIX_K3,
        )
    return Intrinsics(floats(matrix), floats(distortion).ravel()), float(error)


def _between(
    places: Sequence[Floats],
    sides: Sequence[Sequence[Floats]],
    eyes: Sequence[Intrinsics],
    size: tuple[int, int],
    model: Model,
) -> tuple[Floats, Floats]:
    """Return rotation and translation from the left to the right camera.

    The points are freed from the distortion first, so that one method serves all models.
    """
    module = cv2.fisheye if model == "fisheye" else cv2
    plain = [
        [
            module.undistortPoints(points.reshape(-1, 1, 2), eye.matrix, eye.distortion, P=eye.matrix).reshape(-1, 2)
            for points in side
        ]
        for side, eye in zip(sides, eyes, strict=True)
    ]
    none = np.zeros(5)
    _, _, _, _, _, rotation, translation, *_ = cv2.stereoCalibrate(
        _single(places),
        _single(plain[0]),
        _single(plain[1]),
        eyes[0].matrix,
        none,
        eyes[1].matrix,
        none,
        (size[1], size[0]),
        flags=cv2.CALIB_FIX_INTRINSIC,
    )
    return floats(rotation), floats(translation).ravel()


def _single(points: Sequence[Floats]) -> list[Any]:
    return [each.astype(np.float32) for each in points]


def _shaped(points: Sequence[Floats], numbers: int) -> list[Any]:
    return [each.reshape(1, -1, numbers) for each in points]


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else float("inf")
