"""A ChArUco board: a chessboard with a marker in each white square, so that each corner is known by its number.

It may be seen in part, and no way round is mistaken for another one (Garrido-Jurado et al. 2014, Hu et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.calibration.stereo import Floats, floats
from stream.image import Image

MARKER = 0.75
"""Side of a marker, as a share of a square."""
DOTS_PER_METRE = 300 / 0.0254
MAX_SQUARE_DOTS = 400
_DICTIONARIES = ((50, cv2.aruco.DICT_4X4_50), (250, cv2.aruco.DICT_4X4_250), (1000, cv2.aruco.DICT_4X4_1000))


@dataclass(frozen=True, slots=True, eq=False)
class Corners:
    """Corners of the board in an image. ids: int64 [n], sorted. points: float64 [n, 2], pixels."""

    ids: NDArray[np.int64]
    points: Floats

    def of(self, ids: NDArray[np.int64]) -> Floats:
        """Return the points of these ids, which are all there."""
        return self.points[np.searchsorted(self.ids, ids)]


class Board:
    """A board of some squares. square_m: their side, metres. Raises ValueError for a board that cannot be made."""

    def __init__(self, columns: int = 9, rows: int = 6, square_m: float = 0.03) -> None:
        if not (4 <= columns <= 40 and 4 <= rows <= 40 and 0.001 <= square_m <= 1):
            raise ValueError("a board has 4 to 40 squares each way, with sides of 1 to 1000 mm")
        markers = columns * rows // 2
        dictionary = next(name for most, name in _DICTIONARIES if markers <= most)
        self.columns, self.rows, self._square_m = columns, rows, square_m
        self._board = cv2.aruco.CharucoBoard(
            (columns, rows), square_m, MARKER * square_m, cv2.aruco.getPredefinedDictionary(dictionary)
        )
        self._detector = cv2.aruco.CharucoDetector(self._board)
        self._places = floats(self._board.getChessboardCorners())

    def picture(self) -> Image:
        """Return the board as it is printed at 300 dots an inch, with a white margin of half a square: uint8 [H, W]."""
        square = int(min(MAX_SQUARE_DOTS, max(20, self._square_m * DOTS_PER_METRE)))
        size = ((self.columns + 1) * square, (self.rows + 1) * square)
        return np.asarray(self._board.generateImage(size, marginSize=square // 2), np.uint8)

    def find(self, image: Image) -> Corners:
        """Return the corners in an image, uint8 [H, W] or [H, W, 3] BGR."""
        grey = image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
        found: tuple[Any, ...] = self._detector.detectBoard(grey)
        points, ids = found[:2]
        if ids is None:
            return Corners(np.zeros(0, np.int64), np.zeros((0, 2)))
        order = np.argsort(ids.ravel())
        return Corners(ids.ravel()[order].astype(np.int64), floats(points).reshape(-1, 2)[order])

    def places(self, ids: NDArray[np.int64]) -> Floats:
        """Return where corners are on the board, float64 [n, 3], metres."""
        return self._places[ids]

    def outline(self, corners: Corners) -> Floats | None:
        """Return where the outermost corners of the board are in the image, float64 [4, 2]; None if too few are seen."""
        if len(corners.ids) < 4:
            return None
        plane, _ = cv2.findHomography(self._places[corners.ids][:, :2], corners.points)
        if np.shape(plane) != (3, 3):  # None if they lie on a line
            return None
        (x0, y0), (x1, y1) = self._places[0, :2], self._places[-1, :2]
        outer = floats([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]).reshape(-1, 1, 2)
        return floats(cv2.perspectiveTransform(outer, plane)).reshape(4, 2)
