"""Which pictures show the same place, without labels: local features that agree on one plane, in both eyes. Pure, but slow.

ORB features (Rublee et al. 2011) of two pictures are matched where each is the other's nearest and clearly nearer than the second
one (Lowe 2004, section 7.1). RANSAC then looks for a homography that most of them follow. It has to be found with MIN_INLIERS
matches in the left and in the right images. On the simulated walk 95 % of the pictures that it joins are of one room, and it
finds a third of all visits (docs/holdout.md): what it joins are safe examples, not all there are.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from learner.probes.stream_probe import Bools, Where
from stream.image import Image

SIZE = (240, 320)
"""Height and width at which local features are sought, pixels."""
FEATURES = 300
GROUP = 5
"""Neighbours of which one is compared with the other stretches."""
COMPARED_AT_ONCE = 2000
"""Comparisons in one call at most, some 1.5 ms each; the rest is left to the next calls."""
RATIO = 0.8
MIN_INLIERS = 8
TOLERANCE_PX = 5.0
MIN_SPREAD_PX = 5.0
"""Matches on one spot or line say nothing: their standard deviation must be larger in both directions."""
SCALES = 0.25, 4.0
"""A homography that enlarges by less or more is none that a camera sees."""
_CELL_PX = 8
"""Matches in one cell of so many pixels count once."""


class Local(NamedTuple):
    """Local features of a picture: where they are, float32 [n, 2], and what they look like, uint8 [n, 32]."""

    points: NDArray[np.float32]
    descriptors: NDArray[np.uint8]


Eyes = tuple[Local, Local]
"""The local features of the left and of the right image of a pair."""


class Visits:
    """Remembers which of the pairs that are probed show the same place, so that no two of them are compared twice.

    Of each GROUP pairs in a row of a stretch the middle one is compared, for all of them.
    """

    def __init__(self) -> None:
        self._local: dict[int, Eyes] = {}
        self._same: dict[tuple[int, int], bool] = {}

    def same_place(self, keys: list[int], where: Where, eyes: Callable[[int], tuple[Image, Image]]) -> Bools:
        """Return which of N pairs of different stretches show the same place: bool [N, N], symmetric.

        keys: a name of each pair that never changes. eyes: returns the images of pair number 0 to N - 1, uint8 [H, W, 3] BGR.
        What one call leaves out (COMPARED_AT_ONCE) counts as another place until a later call.
        """
        groups = _groups(where)
        middles = {members[len(members) // 2]: members for members in groups}
        self._forget({keys[number] for number in middles})
        same = np.zeros((len(keys), len(keys)), np.bool_)
        apart = ((one, other) for one, other in combinations(middles, 2) if where.stretch[one] != where.stretch[other])
        upto = len(self._same) + COMPARED_AT_ONCE
        for one, other in apart:
            is_known = _names(keys, one, other) in self._same
            if not is_known and len(self._same) >= upto:
                continue
            if self._is_same(keys, one, other, eyes):
                same[np.ix_(middles[one], middles[other])] = True
        return same | same.T

    def _is_same(self, keys: list[int], one: int, other: int, eyes: Callable[[int], tuple[Image, Image]]) -> bool:
        for number in (one, other):
            if keys[number] not in self._local:
                left, right = map(local_features, eyes(number))
                self._local[keys[number]] = left, right
        names = _names(keys, one, other)
        if names not in self._same:
            self._same[names] = show_same(*(self._local[name] for name in names))
        return self._same[names]

    def _forget(self, kept: set[int]) -> None:
        """Forget the pairs that are not probed any more."""
        self._local = {key: eyes for key, eyes in self._local.items() if key in kept}
        self._same = {names: same for names, same in self._same.items() if kept.issuperset(names)}


def _names(keys: list[int], one: int, other: int) -> tuple[int, int]:
    return min(keys[one], keys[other]), max(keys[one], keys[other])


def _groups(where: Where) -> list[list[int]]:
    """Return the numbers of the pairs in groups of GROUP neighbours of one stretch."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, (stretch, seq) in enumerate(zip(where.stretch.tolist(), where.seq.tolist(), strict=True)):
        groups.setdefault((stretch, seq // GROUP), []).append(number)
    return list(groups.values())


def local_features(image: Image) -> Local:
    """Return the local features of an image, uint8 [H, W, 3] BGR of any size."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    grey = cv2.resize(grey, SIZE[::-1], interpolation=cv2.INTER_AREA if grey.shape > SIZE else cv2.INTER_CUBIC)
    found, descriptors = cv2.ORB.create(FEATURES).detectAndCompute(grey, None)
    points = np.array([point.pt for point in found], np.float32).reshape(-1, 2)
    return Local(points, np.zeros((0, 32), np.uint8) if descriptors is None else np.asarray(descriptors, np.uint8))


def show_same(one: Eyes, other: Eyes) -> bool:
    """Return whether two pairs show the same place."""
    return all(_agree(eye, partner) for eye, partner in zip(one, other, strict=True))


def _agree(one: Local, other: Local) -> bool:
    here, there = _matched(one, other)
    if len(here) < MIN_INLIERS:
        return False
    found: Any = cv2.findHomography(here, there, cv2.RANSAC, TOLERANCE_PX)  # None in both, which its types do not say
    homography, inliers = found
    if homography is None:
        return False
    is_inlier = inliers.ravel() > 0
    scale = np.linalg.det(homography[:2, :2] / homography[2, 2])
    if not SCALES[0] ** 2 < scale < SCALES[1] ** 2:
        return False
    return all(_is_spread(points[is_inlier]) for points in (here, there))


def _is_spread(points: NDArray[np.float32]) -> bool:
    distinct = np.unique((points / _CELL_PX).round(), axis=0)
    return len(distinct) >= MIN_INLIERS and float(points.std(0).min()) >= MIN_SPREAD_PX


def _matched(one: Local, other: Local) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the points of both pictures, [n, 2] each, whose features are each other's nearest."""
    if min(len(one.points), len(other.points)) < MIN_INLIERS:
        return one.points[:0], other.points[:0]
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
    both = matcher.knnMatch(one.descriptors, other.descriptors, k=2)
    clear = [first for first, second in both if first.distance < RATIO * second.distance]
    if len(clear) < MIN_INLIERS:
        return one.points[:0], other.points[:0]
    back = {match.queryIdx: match.trainIdx for match in matcher.match(other.descriptors, one.descriptors)}
    mutual = [match for match in clear if back[match.trainIdx] == match.queryIdx]
    return one.points[[m.queryIdx for m in mutual]], other.points[[m.trainIdx for m in mutual]]
