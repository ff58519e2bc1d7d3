"""Measures features on held-out pairs of the stream itself, without labels: how often the nearest picture is the right one. Pure.

Three questions, each asked of the left image of each pair. **right**: of all right images, is the pair's own the most similar?
**neighbour**: is the picture LAG pairs later in the same stretch more similar than every picture of the other stretches?
**visit**: of all pictures of other stretches, does the most similar one show the same place (`learner.probes.visits`)? Similar is
the cosine. Recall is the share of yes; chance is what features that say nothing reach.

Shapes: N pairs, D width of a feature.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from numpy.typing import NDArray
from torch import Tensor

LAG = 4
"""Pairs from a picture to its neighbour: the next one would be nearly the same."""
MIN_QUERIES = 24
"""Fewer queries give no number: with 24 the standard error is still 10 points at worst."""

NEAR, FAR = 10, 30
"""A picture of the same stretch at most NEAR pairs away is near in time, one of another stretch more than FAR away is far."""
NORM, MARGIN = 10.0, 2.0
"""Length of a feature in a triplet, and by how much its squared distances have to differ (as of the objective `tct`)."""

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class Recall(NamedTuple):
    """How often the nearest picture was the right one, and would be by chance, 0 to 1; None: too few queries."""

    recall: float | None
    chance: float | None
    queries: int


class Where(NamedTuple):
    """Where N held-out pairs come from. stretch: a number for each stretch, int64 [N]; seq: that in its epoch, int64 [N]."""

    stretch: Ints
    seq: Ints


class Triplets(NamedTuple):
    """The shares of triplets in which what is near in time is nearer than what is far, 0 to 1; None: too few anchors.

    right: nearer at all, half of them by chance; by_margin: by MARGIN.
    """

    right: float | None
    by_margin: float | None


def triplets(left: Tensor, where: Where) -> Triplets:
    """Return how many of all triplets of left images are right, the mean over the anchors; left: float [N, D].

    Distances are the squares of those of features of length NORM ("Self-supervised learning from snaps", section IV).
    """
    unit = F.normalize(left.double(), dim=1).numpy()
    squares = NORM**2 * np.maximum(2 - 2 * unit @ unit.T, 0)
    is_same, between = where.stretch[:, None] == where.stretch, np.abs(where.seq[:, None] - where.seq)
    near, far = is_same & (between > 0) & (between <= NEAR), ~is_same & (between > FAR)
    anchors = np.flatnonzero(near.any(1) & far.any(1))
    if len(anchors) < MIN_QUERIES:
        return Triplets(None, None)
    gaps = [squares[a, far[a]] - squares[a, near[a]][:, None] for a in anchors]
    return Triplets(*(float(np.mean([np.mean(gap > least) for gap in gaps])) for least in (0.0, MARGIN)))


def recalls(left: Tensor, right: Tensor, where: Where, same_place: Bools) -> dict[str, Recall]:
    """Return the recall of each question. left, right: features of both eyes, float [N, D]; same_place: bool [N, N], symmetric.

    Raises ValueError if a feature is not finite.
    """
    if not (left.isfinite().all() and right.isfinite().all()):
        raise ValueError("a feature of a held-out pair is not finite")
    lefts, rights = (F.normalize(features.double(), dim=1).numpy() for features in (left, right))
    elsewhere = where.stretch[:, None] != where.stretch
    is_neighbour = ~elsewhere & (where.seq == where.seq[:, None] + LAG)
    everyone = np.ones_like(elsewhere)
    return {
        "right": _recall(lefts @ rights.T, np.eye(len(lefts), dtype=bool), everyone),
        "neighbour": _recall(lefts @ lefts.T, is_neighbour, elsewhere | is_neighbour),
        "visit": _recall(lefts @ lefts.T, same_place & elsewhere, elsewhere),
    }


def _recall(similarity: NDArray[np.float64], is_right: Bools, is_asked: Bools) -> Recall:
    """Return how often the most similar one that is asked is a right one; all [N, N]. A query has a right one and a wrong one."""
    rights = (is_right & is_asked).sum(1)
    is_query = (rights > 0) & (rights < is_asked.sum(1))
    queries = int(is_query.sum())
    if queries < MIN_QUERIES:
        return Recall(None, None, queries)
    nearest = np.where(is_asked, similarity, -np.inf)[is_query]
    # Of equally similar ones a wrong one counts: features that are all alike find nothing.
    best_right = np.where(is_right[is_query], nearest, -np.inf).max(1)
    best_wrong = np.where(is_right[is_query], -np.inf, nearest).max(1)
    chance = rights[is_query] / is_asked.sum(1)[is_query]
    return Recall(float(np.mean(best_right > best_wrong)), float(chance.mean()), queries)
