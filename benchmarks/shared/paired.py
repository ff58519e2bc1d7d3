"""Differences paired by seed: runs of a seed share weights, stream and views, so they are compared seed by seed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Mean over seeds, half width of its 95 % interval and two-sided p; nan for the last two with a single seed."""

    mean: float
    half: float
    p: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ± {self.half:.1f}"


def paired(differences: Floats) -> Difference:
    """Mean, 95 % interval and p of differences [seeds] that are nought in the mean if nothing differs."""
    count, mean = len(differences), float(differences.mean())
    if count < 2:
        return Difference(mean, float("nan"), float("nan"))
    error = float(differences.std(ddof=1) / np.sqrt(count))
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if error else float(mean == 0)
    return Difference(mean, float(stats.t.ppf(0.975, count - 1)) * error, p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values (1979)."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return adjusted
