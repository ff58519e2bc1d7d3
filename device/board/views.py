"""Chooses the views of the board that a calibration needs: enough, unlike each other, everywhere in the image, and tilted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from device.board.charuco import Board, Corners
from stream.calibration.stereo import Floats
from stream.image import Image

MIN_CORNERS = 12
"""Corners that both eyes have to see."""
TILTED = 4
"""So many views have to be tilted: without them the focal length is not known."""
_TILT = 0.12
"""A board is tilted if opposite sides of its outline differ by this share."""
_UNLIKE = 0.025
"""Views differ if a corner of the outline has moved by this share of the image's width."""
_STILL = 0.004
"""A board is held still if no corner of its outline has moved further since the shot before."""
_GRID = 3
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")

Verdict = Literal["taken", "no board", "too few corners", "not still", "like an earlier one"]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Corners that both eyes saw at one moment: ids int64 [n]; left, right: float64 [n, 2], pixels."""

    ids: NDArray[np.int64]
    left: Floats
    right: Floats


class Views:
    """Collects views. wanted: how many. hold_still: leave out boards that move, because two eyes are not quite of one moment."""

    def __init__(self, board: Board, *, wanted: int, hold_still: bool = False) -> None:
        self.taken: list[View] = []
        self.seen: Counter[Verdict] = Counter()
        """How many shots were taken or left out, and why."""
        self.size: tuple[int, int] | None = None
        """Height and width of the images."""
        self._board = board
        self._wanted = wanted
        self._hold_still = hold_still
        self._outlines: list[Floats] = []
        self._before: Floats | None = None
        self._covered = np.zeros((2, _GRID, _GRID), bool)
        self._tilted = 0

    def look(self, left: Image, right: Image) -> Verdict:
        """Look for the board in both images, and take them if they help. Raises ValueError for images of another size."""
        self.size = self.size or (left.shape[0], left.shape[1])
        if left.shape[:2] != self.size or right.shape[:2] != self.size:
            raise ValueError("images of several sizes cannot be calibrated together")
        verdict = self._judge(self._board.find(left), self._board.find(right))
        self.seen[verdict] += 1
        return verdict

    @property
    def complete(self) -> bool:
        """Whether enough was seen."""
        return len(self.taken) >= self._wanted and not self.missing()

    def missing(self) -> str:
        """Return in words what was not seen yet."""
        cells = [
            f"{_ROWS[row]} {_COLUMNS[column]}"
            for row in range(_GRID)
            for column in range(_GRID)
            if not self._covered[:, row, column].all()
        ]
        wishes = [f"bring it to the {', '.join(cells[:3])} of both images"] if cells else []
        wishes += ["tilt it"] if self._tilted < TILTED else []
        return ", ".join(wishes)

    def describe(self) -> str:
        """Return the progress in words."""
        left_out = ", ".join(f"{count} {why}" for why, count in self.seen.items() if why != "taken")
        wish = self.missing()
        return (
            f"{len(self.taken)} of {self._wanted} views"
            f"{f'; {wish}' if wish else ''}{f' (left out: {left_out})' if left_out else ''}"
        )

    def _judge(self, left: Corners, right: Corners) -> Verdict:
        ids = np.intersect1d(left.ids, right.ids)
        outline, before = self._board.outline(left), self._before
        self._before = outline
        if outline is None or not len(right.ids):
            return "no board"
        if len(ids) < MIN_CORNERS:
            return "too few corners"
        width = self.size[1] if self.size else 1
        if self._hold_still and (before is None or np.abs(outline - before).max() > _STILL * width):
            return "not still"
        if any(np.abs(outline - other).max() < _UNLIKE * width for other in self._outlines):
            return "like an earlier one"
        view = View(ids, left.of(ids), right.of(ids))
        self.taken.append(view)
        self._outlines.append(outline)
        self._tilted += _is_tilted(outline)
        for eye, points in enumerate((view.left, view.right)):
            self._cover(eye, points)
        return "taken"

    def _cover(self, eye: int, points: Floats) -> None:
        assert self.size is not None
        cells = (points / (self.size[1], self.size[0]) * _GRID).astype(int).clip(0, _GRID - 1)
        self._covered[eye, cells[:, 1], cells[:, 0]] = True


def _is_tilted(outline: Floats) -> bool:
    sides = np.linalg.norm(outline - np.roll(outline, -1, axis=0), axis=1)
    return bool(max(abs(np.log(sides[0] / sides[2])), abs(np.log(sides[1] / sides[3]))) > _TILT)
