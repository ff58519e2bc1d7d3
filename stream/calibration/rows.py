"""How far equal things are apart in height in two images, without a calibration, from matches of ORB features.

Corners of the left image are found again in the right one (Rublee et al. 2011). Many matches are wrong, but wrong ones lie
everywhere, and right ones are equally far apart in height: the offset is the median around the place where most of them are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from stream.calibration.stereo import Floats, floats
from stream.image import Image

MAX_CORNERS = 1000
MAX_WIDTH = 1280
"""Wider images are reduced first: corners of a whole degree are enough, and the cost stays bounded."""
_MARGIN = 31
"""Corners nearer to an edge are not looked for, in pixels. ORB fails for images of a few pixels, which have no others."""
MIN_MATCHES = 25
"""Matches that have to agree. Fewer may agree by chance."""
LEVEL_ROWS = 360
"""Rows agree if they are at most 1 px apart in an image with so many rows, and in proportion in a higher one."""
_SEARCH = 0.15
"""Offsets up to this share of the height are looked for."""
_NEAR = 0.03
"""Matches up to this share of the height away from where most are belong to it: cameras may also be turned a little."""
_CLEAR = 2.5
"""So many times more matches than by chance have to be there."""
_MAX_BITS = 64
_SIGMA = 1.4826
"""Median absolute deviation to standard deviation, of a normal distribution."""


@dataclass(frozen=True, slots=True)
class RowOffset:
    """How much lower things are in the right image than in the left one.

    px: median, pixels; below 0 they are higher. spread_px: how far single matches are from it, as a standard deviation that wrong
    ones hardly change. matches: how many agree.
    """

    px: float
    spread_px: float
    matches: int

    def is_level(self, height: int) -> bool:
        """Return whether rows agree well enough in images of this height, in pixels."""
        level_px = max(1.0, height / LEVEL_ROWS)
        return abs(self.px) <= level_px and not self.is_turned(height)

    def is_turned(self, height: int) -> bool:
        """Return whether no plain shift brings rows together."""
        return self.spread_px > 2 * max(1.0, height / LEVEL_ROWS)

    def describe(self) -> str:
        """Return the offset as words."""
        px = round(self.px, 1)
        where = f"{abs(px)} px {'lower' if px > 0 else 'higher'}" if px else "in the same row"
        return f"things are {where} in the right image (median of {self.matches} matches, spread {self.spread_px:.1f})"


def matched_rows(left: Image, right: Image) -> Floats:
    """Return for each match how many pixels lower it is in the right image: float64 [n]. Wrong matches are among them.

    left, right: uint8 [H, W] or [H, W, 3] BGR of one size. Low or narrow ones have no match.
    """
    height, width = left.shape[:2]
    scale = min(1.0, MAX_WIDTH / width)
    if scale * min(height, width) <= 2 * _MARGIN:
        return np.zeros(0)
    orb = cv2.ORB.create(nfeatures=MAX_CORNERS, edgeThreshold=_MARGIN, fastThreshold=10)
    found = [orb.detectAndCompute(_grey(image, scale), None) for image in (left, right)]
    (corners, bits), (others, other_bits) = found
    if not corners or not others:
        return np.zeros(0)
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(bits, other_bits)
    moved = floats(
        [
            np.subtract(others[match.trainIdx].pt, corners[match.queryIdx].pt) / scale
            for match in matches
            if match.distance <= _MAX_BITS
        ]
    ).reshape(-1, 2)
    near = (np.abs(moved[:, 0]) <= width / 2) & (np.abs(moved[:, 1]) <= _SEARCH * height)
    return floats(moved[near, 1])


def row_offset(rows: Iterable[Floats], height: int) -> RowOffset | None:
    """Return the offset that most matches of some pairs agree on; None if too few agree.

    rows: of each pair, from `matched_rows`. height: of the images, pixels.
    """
    moved = np.sort(np.concatenate([*rows, np.zeros(0)]))
    near = max(3.0, _NEAR * height)
    if len(moved) < MIN_MATCHES:
        return None
    counts = np.searchsorted(moved, moved + near / 2, "right") - np.searchsorted(moved, moved - near / 2, "left")
    peak = float(np.median(moved[counts == counts.max()]))
    agree = moved[np.abs(moved - peak) <= near]
    by_chance = len(moved) * min(1.0, near / (_SEARCH * height))
    if len(agree) < max(MIN_MATCHES, min(_CLEAR * by_chance, 0.8 * len(moved))):
        return None
    px = float(np.median(agree))
    return RowOffset(px, _SIGMA * float(np.median(np.abs(agree - px))), len(agree))


def shifted(left: Image, right: Image, rows: int) -> tuple[Image, Image]:
    """Return both images without the rows that only one of them has: things that were `rows` px lower in the right one are level.

    The height becomes smaller by the number of rows. Raises ValueError if nothing would be left.
    """
    height = left.shape[0]
    if abs(rows) >= height:
        raise ValueError(f"a shift of {rows} rows leaves nothing of images with {height}")
    cut = height - abs(rows)
    return left[max(0, -rows) :][:cut], right[max(0, rows) :][:cut]


def _grey(image: Image, scale: float) -> Image:
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.uint8)
