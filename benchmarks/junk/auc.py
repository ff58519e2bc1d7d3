"""The area under the ROC curve in closed form (Mann and Whitney), and how far it can be trusted (DeLong et al. 1988)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Auc(NamedTuple):
    """P(a score of the first kind is above one of the second), ties half; and the variance of that estimate."""

    value: float
    variance: float


class Interval(NamedTuple):
    """A mean and two standard errors of it."""

    mean: float
    reach: float


def auc(above: ArrayLike, below: ArrayLike) -> Auc:
    """How often scores `above` [k] exceed scores `below` [m]; nan without one of them, variance nan with fewer than two."""
    first, second = np.asarray(above, np.float64), np.asarray(below, np.float64)
    if not (first.size and second.size):
        return Auc(math.nan, math.nan)
    wins, losses = placements(first, second), placements(second, first)
    few = min(first.size, second.size) < 2
    variance = math.nan if few else float(wins.var(ddof=1) / first.size + losses.var(ddof=1) / second.size)
    return Auc(float(wins.mean()), variance)


def placements(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of `others` below each value, equal ones half: float64 [k] in [0, 1]."""
    ordered = np.sort(others)
    below, not_above = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return np.asarray((below + not_above) / 2 / len(ordered))


def over_seeds(found: Sequence[Auc]) -> Interval:
    """Return the mean over seeds, within two standard errors.

    The variance is that between the seeds, but not less than DeLong's for each alone: three seeds that agree by chance would
    promise too much.
    """
    values = np.array([one.value for one in found])
    within = float(np.mean([one.variance for one in found]))
    between = float(values.var(ddof=1)) if len(values) > 1 else 0.0
    return Interval(float(values.mean()), 2 * math.sqrt(max(within, between) / len(values)))
