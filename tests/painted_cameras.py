"""Two cameras whose calibration is known, and what they see of a plane with a picture on it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.calibration.stereo import Floats, Intrinsics, Model, StereoCalibration, floats, intrinsics
from stream.image import Image

SIZE = (240, 320)
LENSES: dict[Model, tuple[float, ...]] = {
    "pinhole": (-0.25, 0.07, 0.001, -0.0005),
    "fisheye": (0.02, -0.01, 0.004, -0.001),
}


def cameras(model: Model = "pinhole", size: tuple[int, int] = SIZE) -> StereoCalibration:
    """A bent rig: the right camera is rolled by 1.5 degrees, tipped by 3, has another focal length, and stands 6 cm aside."""
    height, width = size
    focal = 0.75 * width if model == "pinhole" else 0.45 * width
    left, right = (
        intrinsics(scale * focal, scale * focal, width / 2 + shift, height / 2 - shift, LENSES[model])
        for scale, shift in ((1.0, 2.0), (1.02, -3.0))
    )
    rotation = cv2.Rodrigues(np.radians([-3.0, -1.0, 1.5]))[0]
    return StereoCalibration(left, right, floats(rotation), floats([-0.06, 0.002, 0.001]), size, model)


class PaintedCameras:
    """Paints what two cameras see. The rays of the pixels are found once."""

    def __init__(self, calibration: StereoCalibration) -> None:
        self.calibration = calibration
        assert calibration.size is not None
        self._size = calibration.size
        self._rays = [self._rays_of(eye) for eye in (calibration.left, calibration.right)]

    def see(self, picture: Image, metres: float, turn: Floats, place: Floats) -> tuple[Image, Image]:
        """Both images of a plane that carries a grey picture, `metres` wide, with its centre at `place` in the left camera."""
        return tuple(self._paint(picture, metres, turn, place, eye) for eye in (0, 1))  # type: ignore[return-value]

    def _rays_of(self, eye: Intrinsics) -> Floats:
        height, width = self._size
        x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
        pixels = np.stack([x, y], -1).reshape(-1, 1, 2)
        module = cv2.fisheye if self.calibration.model == "fisheye" else cv2
        return np.column_stack(
            [module.undistortPoints(pixels, eye.matrix, eye.distortion).reshape(-1, 2), np.ones(x.size)]
        )

    def _paint(self, picture: Image, metres: float, turn: Floats, place: Floats, eye: int) -> Image:
        known = self.calibration
        if eye:
            turn, place = known.rotation @ turn, known.rotation @ place + known.translation
        rays = self._rays[eye] @ turn  # in the frame of the plane, whose third axis is its normal
        origin = -(turn.T @ place)
        along = -origin[2] / rays[:, 2]
        on_plane = (origin[:2] + along[:, None] * rays[:, :2]) * (picture.shape[1] / metres)
        height, width = self._size
        centre = (picture.shape[1] / 2, picture.shape[0] / 2)
        x, y = (on_plane + centre).astype(np.float32).reshape(height, width, 2).transpose(2, 0, 1)
        border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": 90.0}
        return np.asarray(cv2.remap(picture, x, y, cv2.INTER_AREA, **border), np.uint8)  # type: ignore[call-overload]


def speckles(seed: int = 0, size: tuple[int, int] = (900, 1200), grain: int = 5) -> Image:
    """A picture with corners everywhere, grey."""
    noise: NDArray[np.float32] = np.random.default_rng(seed).random((size[0] // grain, size[1] // grain), np.float32)
    return np.asarray(cv2.resize(255 * noise, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
