"""What is known of two cameras: their intrinsics, how they stand to each other, and the size of their images.

The conventions are those of OpenCV: a point `x` of the left camera is `rotation @ x + translation` in the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stream.errors import StreamError
from stream.image import MAX_SIDE

Model = Literal["pinhole", "fisheye"]
"""pinhole: radial and tangential distortion, perhaps rational. fisheye: the equidistant model of Kannala and Brandt."""
Floats = NDArray[np.float64]

DISTORTIONS: dict[Model, tuple[int, ...]] = {"pinhole": (0, 4, 5, 8, 12, 14), "fisheye": (4,)}
"""How many coefficients of distortion OpenCV knows for each model."""
_LARGEST = 1e6
_CROOKED = 1e-2
"""Numbers in files are rounded; a rotation that is further than this from a rotation is another matrix."""


class CalibrationError(StreamError):
    """A calibration that cannot be read, or does not fit the images; the message says what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Intrinsics:
    """One camera. matrix: float64 [3, 3], pixels. distortion: float64 [n], in OpenCV's order."""

    matrix: Floats
    distortion: Floats


@dataclass(frozen=True, slots=True, eq=False)
class StereoCalibration:
    """Two cameras. Raises CalibrationError for numbers that no pair of cameras has.

    rotation: float64 [3, 3]; translation: float64 [3], in any unit. size: height and width of the images, None where the file
    does not say. rectified: rows agree already, so nothing has to be done. rectified_size: height and width of images of which
    that is true, while others, of `size`, are as the cameras gave them.
    """

    left: Intrinsics
    right: Intrinsics
    rotation: Floats
    translation: Floats
    size: tuple[int, int] | None = None
    model: Model = "pinhole"
    rectified: bool = False
    rectified_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.model not in get_args(Model):
            raise CalibrationError(f"the model is one of {', '.join(get_args(Model))}, not {self.model!r}")
        for sides in (self.size, self.rectified_size):
            if sides is not None and not all(1 <= side <= MAX_SIDE for side in sides):
                raise CalibrationError(f"the images are {sides[1]}x{sides[0]}: sides are 1 to {MAX_SIDE} pixels")
        for name, eye in (("left", self.left), ("right", self.right)):
            self._check(f"{name} camera matrix", eye.matrix, (3, 3))
            self._check(f"{name} distortion", eye.distortion, (len(eye.distortion),))
            focal, (_, _, one) = eye.matrix[[0, 1], [0, 1]], eye.matrix[2]
            if not (np.all(focal >= 1) and one == 1 and not eye.matrix[2, :2].any() and not eye.matrix[1, 0]):
                raise CalibrationError(
                    f"the {name} camera matrix is not [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels"
                )
            if len(eye.distortion) not in DISTORTIONS[self.model]:
                known = " or ".join(map(str, DISTORTIONS[self.model]))
                raise CalibrationError(
                    f"the {name} camera has {len(eye.distortion)} coefficients of distortion: model {self.model} has {known}"
                )
        self._check("rotation", self.rotation, (3, 3))
        self._check("translation", self.translation, (3,))
        off = np.abs(self.rotation @ self.rotation.T - np.eye(3)).max()
        if off > _CROOKED or np.linalg.det(self.rotation) < 0:
            raise CalibrationError("the rotation between the cameras is not a rotation matrix")
        if not self.translation.any():
            raise CalibrationError("both cameras are at the same place: the translation between them is missing")

    @staticmethod
    def _check(name: str, values: Floats, shape: tuple[int, ...]) -> None:
        if values.shape != shape or values.dtype != np.float64:
            raise CalibrationError(f"the {name} has shape {list(values.shape)}, not {list(shape)}")
        if not np.all(np.isfinite(values)) or np.abs(values).max(initial=0) > _LARGEST:
            raise CalibrationError(f"the {name} holds numbers that are not finite, or beyond {_LARGEST:g}")


def floats(values: ArrayLike) -> Floats:
    """Return values as float64."""
    return np.asarray(values, np.float64)


def inverse(transform: Floats) -> Floats:
    """Return the inverse of a transform [4, 4]. Raises CalibrationError if it has none."""
    try:
        return floats(np.linalg.inv(transform))
    except np.linalg.LinAlgError as error:
        raise CalibrationError("a transform between camera and body has no inverse: it is no transform") from error


def relative(left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Return rotation and translation between two cameras of which each has a transform [4, 4] from a common frame."""
    between = right @ inverse(left)
    return between[:3, :3], between[:3, 3]


def intrinsics(fx: float, fy: float, cx: float, cy: float, distortion: ArrayLike = ()) -> Intrinsics:
    """Return the intrinsics of these numbers, in pixels."""
    return Intrinsics(floats([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]), floats(distortion).ravel())
