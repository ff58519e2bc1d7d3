"""The area under the ROC curve in closed form (Mann and Whitney), and its variance (DeLong et al. 1988)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Auc(NamedTuple):
    """The probability that a score of the first kind is above one of the second, and the variance of its estimate.

    Ties count half.
    """

    value: float
    variance: float


class Interval(NamedTuple):
    """A mean, and two standard errors of the mean."""

    mean: float
    reach: float


def auc(above: ArrayLike, below: ArrayLike) -> Auc:
    """Return the AUC of scores `above` [k] against scores `below` [m].

    It is nan if one of them is empty; the variance is nan if one of them has fewer than two scores.
    """
    first, second = np.asarray(above, np.float64), np.asarray(below, np.float64)
    if not (first.size and second.size):
        return Auc(math.nan, math.nan)
    wins, losses = placements(first, second), placements(second, first)
    few = min(first.size, second.size) < 2
    variance = math.nan if few else float(wins.var(ddof=1) / first.size + losses.var(ddof=1) / second.size)
    return Auc(float(wins.mean()), variance)


def placements(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of `others` below each value, with equal ones counted half: float64 [k] in [0, 1]."""
    ordered = np.sort(others)
    below, not_above = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return np.asarray((below + not_above) / 2 / len(ordered))


def over_seeds(found: Sequence[Auc]) -> Interval:
    """Return the mean over seeds, and two standard errors.

    The variance is that between the seeds, but at least that of DeLong for one seed: three seeds that agree by chance would
    otherwise give an interval that is too small.
    """
    values = np.array([one.value for one in found])
    within = float(np.mean([one.variance for one in found]))
    between = float(values.var(ddof=1)) if len(values) > 1 else 0.0
    return Interval(float(values.mean()), 2 * math.sqrt(max(within, between) / len(values)))
