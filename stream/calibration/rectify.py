"""Rectification: both images are bent so that a thing is in the same row of both, as if two equal cameras looked the same way.

The rotations are OpenCV's (Bouguet's method, `stereoRectify`). The new focal length is chosen here, in the same way for all
models of distortion: the widest field of view in which every pixel of both new images lies in its old one, so that no edge is
black.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.calibration.stereo import CalibrationError, Floats, Intrinsics, Model, StereoCalibration, floats
from stream.image import Image, check_sides

WIDEST, NARROWEST = 0.6, 4.0
"""Bounds of the new focal length, as multiples of the old one. A fisheye image is not stretched without end at its edges, and
cameras that hardly see the same are refused."""
_STEP = 0.98
_BORDER = 24
"""Points on each side of the image that have to lie in the old image."""


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """How both images are bent. turns: rotation [3, 3] of each eye. matrix: the camera matrix [3, 3] of both new images."""

    turns: tuple[Floats, Floats]
    matrix: Floats


class Rectifier:
    """Rectifies pairs of images of one size. The maps are made once, for the first pair, and take 6 bytes for each pixel."""

    def __init__(self, calibration: StereoCalibration) -> None:
        self.calibration = calibration
        self._size: tuple[int, int] | None = None
        self._maps: list[tuple[NDArray[np.int16], NDArray[np.uint16]]] = []

    def apply(self, left: Image, right: Image) -> tuple[Image, Image]:
        """Return both images, uint8 [H, W] or [H, W, 3], rectified and of the same size.

        Raises CalibrationError if their size is not that of the calibration, or if it makes no rectification.
        """
        size = left.shape[:2]
        if self._size is None:
            self._maps = self._maps_for((size[0], size[1]))
            self._size = size[0], size[1]
        if size != self._size or right.shape[:2] != size:
            sizes = f"{left.shape[1]}x{left.shape[0]} and {right.shape[1]}x{right.shape[0]}"
            raise CalibrationError(f"the images are {sizes}, after others of {self._size[1]}x{self._size[0]}")
        if not self._maps:
            return left, right
        one, other = (
            np.asarray(cv2.remap(image, *maps, interpolation=cv2.INTER_LINEAR), np.uint8)
            for image, maps in zip((left, right), self._maps, strict=True)
        )
        return one, other

    def _maps_for(self, size: tuple[int, int]) -> list[tuple[NDArray[np.int16], NDArray[np.uint16]]]:
        """Return the maps of both eyes; none where rows agree already."""
        known = self.calibration
        check_sides(*size)
        if known.rectified or size == known.rectified_size:
            return []
        if known.size is not None and known.size != size:
            raise CalibrationError(
                f"the images are {size[1]}x{size[0]}, and the calibration is of {known.size[1]}x{known.size[0]}: calibrate at "
                "the size of the images, or take images of that size"
            )
        geometry = geometry_of(known, size)
        module = cv2.fisheye if known.model == "fisheye" else cv2
        return [
            module.initUndistortRectifyMap(
                eye.matrix, eye.distortion, turn, geometry.matrix, (size[1], size[0]), cv2.CV_16SC2
            )
            for eye, turn in zip((known.left, known.right), geometry.turns, strict=True)
        ]


def geometry_of(calibration: StereoCalibration, size: tuple[int, int]) -> Geometry:
    """Return how images of this height and width are bent. Raises CalibrationError if they cannot be."""
    eyes = calibration.left, calibration.right
    plain = np.zeros(4)
    try:  # the rotations depend on how the cameras stand to each other, not on their lenses
        first, second, _, projection, *_ = cv2.stereoRectify(
            eyes[0].matrix,
            plain,
            eyes[1].matrix,
            plain,
            size[::-1],
            calibration.rotation,
            calibration.translation.reshape(3, 1),
        )
        if abs(projection[1, 3]) > abs(projection[0, 3]):
            raise CalibrationError(
                "the cameras stand over each other, not side by side: turn both images by 90 degrees"
            )
        turns = floats(first), floats(second)
        matrix = _widest(eyes, calibration.model, turns, size)
    except cv2.error as error:
        raise CalibrationError(f"OpenCV cannot rectify with this calibration: {error.err}") from error
    if matrix is None:
        raise CalibrationError(
            "with this calibration no part of both images has equal rows: it is wrong, or its two cameras see different things"
        )
    return Geometry(turns, matrix)


def rectified(calibration: StereoCalibration, size: tuple[int, int]) -> StereoCalibration:
    """Return the calibration of the images that a `Rectifier` makes of those of a height and width. Raises CalibrationError."""
    if calibration.rectified or size == calibration.rectified_size:
        return calibration
    eye = Intrinsics(geometry_of(calibration, size).matrix, np.zeros(0))
    baseline = floats([-float(np.linalg.norm(calibration.translation)), 0.0, 0.0])
    return StereoCalibration(eye, eye, np.eye(3), baseline, size, rectified=True)


def row_errors(calibration: StereoCalibration, left: Floats, right: Floats) -> Floats:
    """Return by how many pixels the right point is lower than the left one after rectification: float64 [n].

    left, right: positions (x, y) of the same things in the images as the cameras gave them, [n, 2].
    """
    size = calibration.size or (1, 1)
    geometry = geometry_of(calibration, size)
    module = cv2.fisheye if calibration.model == "fisheye" else cv2
    rows = [
        module.undistortPoints(points.reshape(-1, 1, 2), eye.matrix, eye.distortion, R=turn, P=geometry.matrix).reshape(
            -1, 2
        )[:, 1]
        for points, eye, turn in zip((left, right), (calibration.left, calibration.right), geometry.turns, strict=True)
    ]
    return floats(rows[1] - rows[0])


def _widest(
    eyes: tuple[Intrinsics, Intrinsics], model: Model, turns: tuple[Floats, Floats], size: tuple[int, int]
) -> Floats | None:
    """Return the camera matrix with the smallest focal length whose images are filled; None if there is none."""
    height, width = size
    old = float(np.mean([eye.matrix[[0, 1], [0, 1]] for eye in eyes]))
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    principal = np.array([eye.matrix[:2, 2] for eye in eyes])[:, None]
    middle = np.mean([_centre_ray(eye, model, turn, centre) for eye, turn in zip(eyes, turns, strict=True)], axis=0)
    found, reached = None, np.zeros((2, 4 * _BORDER))
    focal = NARROWEST * old
    while focal >= WIDEST * old:
        cx, cy = centre - focal * middle
        matrix = floats([[focal, 0, cx], [0, focal, cy], [0, 0, 1]])
        sources = [_sources(eye, model, turn, matrix, size) for eye, turn in zip(eyes, turns, strict=True)]
        if any(points is None for points in sources):
            break
        points = np.array(sources)
        inside = np.all((points >= 0) & (points <= (width - 1, height - 1)))
        radii = np.linalg.norm(points - principal, axis=2)
        if not inside or np.any(radii < reached - 1):  # a distortion beyond its range folds the image back
            break
        found, reached = matrix, radii
        focal *= _STEP
    return found


def _centre_ray(eye: Intrinsics, model: Model, turn: Floats, centre: Floats) -> Floats:
    """Return where the middle of an old image looks, as (x / z, y / z) behind its rotation."""
    module = cv2.fisheye if model == "fisheye" else cv2
    return floats(module.undistortPoints(centre.reshape(1, 1, 2), eye.matrix, eye.distortion, R=turn)).reshape(2)


def _sources(eye: Intrinsics, model: Model, turn: Floats, matrix: Floats, size: tuple[int, int]) -> Floats | None:
    """Return where the border of the new image lies in the old one: float64 [4 * _BORDER, 2]; None if behind the camera."""
    along = np.linspace(0, 1, _BORDER)
    zero, one = np.zeros(_BORDER), np.ones(_BORDER)
    border = np.concatenate([np.stack(side, 1) for side in ((along, zero), (along, one), (zero, along), (one, along))])
    border *= (size[1] - 1, size[0] - 1)
    rays = np.column_stack([border, np.ones(len(border))]) @ np.linalg.inv(matrix).T @ turn  # the turn's inverse
    if rays[:, 2].min() <= 0:
        return None
    still = np.zeros(3)
    if model == "fisheye":
        points, _ = cv2.fisheye.projectPoints(rays.reshape(1, -1, 3), still, still, eye.matrix, eye.distortion)
    else:
        points, _ = cv2.projectPoints(rays.reshape(-1, 1, 3), still, still, eye.matrix, eye.distortion)
    return floats(points).reshape(-1, 2)
