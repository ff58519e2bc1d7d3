"""Comparisons of runs over the same seeds. Runs of one seed share weights, stream and views, so they are compared in pairs.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]
Line = Mapping[str, Any]
"""A result line of a bench, as read from JSON."""


@dataclass(frozen=True)
class Difference:
    """A mean over seeds, half the width of its 95 % interval, and the two-sided p; the last two are nan for a single seed."""

    mean: float
    half: float
    p: float

    def __str__(self) -> str:
        """Return both with a digit behind the point, of a single seed the mean alone."""
        return f"{self.mean:+.1f}" if np.isnan(self.half) else f"{self.mean:+.1f} ± {self.half:.1f}"


@dataclass(frozen=True)
class SeedRuns:
    """Result lines by name (a row, a regime, a policy), one for each of `seeds` in this order.

    Every name has all of these seeds.
    """

    seeds: tuple[int, ...]
    lines: Mapping[str, Sequence[Line]]

    @property
    def names(self) -> list[str]:
        """The names, in the order in which they first appear."""
        return list(self.lines)


def by_seed(lines: Sequence[Line], field: str) -> SeedRuns:
    """Group result lines by the value of `field`, and keep only the seeds that all values have."""
    found = {(line[field], line["seed"]): line for line in lines}
    names = list(dict.fromkeys(line[field] for line in lines))
    seeds = sorted({line["seed"] for line in lines if all((name, line["seed"]) in found for name in names)})
    return SeedRuns(tuple(seeds), {name: [found[name, seed] for seed in seeds] for name in names})


def paired(differences: Floats) -> Difference:
    """Return the mean, 95 % interval and p of differences [seeds] (Student's t; the null hypothesis is a mean of zero)."""
    count, mean = len(differences), float(differences.mean())
    if count < 2:
        return Difference(mean, float("nan"), float("nan"))
    error = float(differences.std(ddof=1) / np.sqrt(count))
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if error else float(mean == 0)
    return Difference(mean, float(stats.t.ppf(0.975, count - 1)) * error, p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the p-values adjusted by Holm's step-down method (1979)."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
