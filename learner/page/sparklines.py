"""Curves as small SVG elements, without matplotlib: drawn every few seconds they must not hold the interpreter from training.

Colours are the CSS variables of `learner.report.style`, so that one curve serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from learner.report.figures import ROLES, binned
from learner.report.html import number
from learner.runs.reading import Points

WIDTH, HEIGHT = 360, 180
LEFT, RIGHT, TOP, BOTTOM = 50, 352, 34, 152
"""The plot within, in units that are about a pixel on a phone."""

Numbers = NDArray[np.float64]


def trace(title: str, points: Points) -> str:
    """One quantity over steps as the means of bins, in a band from the least to the greatest of each; its last value above."""
    steps, mean, least, greatest = binned(*points)
    axes = _Axes(steps, (least, greatest))
    band = axes.path(np.concatenate([steps, steps[::-1]]), np.concatenate([greatest, least[::-1]]))
    curve = f'<path class="band" d="{band}z"/>{axes.line(steps, mean, "trace")}'
    last = points[1][np.isfinite(points[1])][-1]
    return _svg(title, number(float(last)), axes, curve)


def race(title: str, lines: Mapping[str, Points], *, scale: float = 1.0) -> str:
    """A line for each encoder over steps, from its first value, which is dashed; the last values above."""
    scaled = {who: (steps, scale * values) for who, (steps, values) in lines.items()}
    axes = _Axes(*(np.concatenate(some) for some in zip(*scaled.values(), strict=True)))
    drawn = []
    for who, (steps, values) in scaled.items():
        role = who if who in ROLES else "trace"
        thin = np.unique(np.linspace(0, len(steps) - 1, 150).round().astype(np.intp))
        start = axes.line(np.array([axes.first, axes.last]), values[[0, 0]], role, "start")
        drawn.append(start + axes.line(steps[thin], values[thin], role, "probes"))
    last = " / ".join(f"{values[-1]:.3g}" for _, values in scaled.values())
    return _svg(title, last, axes, "".join(drawn))


class _Axes:
    """Where numbers lie in the picture. values: arrays whose whole range is to be seen."""

    def __init__(self, steps: Numbers, values: Iterable[Numbers]) -> None:
        every = np.concatenate([np.ravel(some) for some in values])
        self.first, self.last = float(steps.min()), float(steps.max())
        low, high = float(every.min()), float(every.max())
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        self._low, self._high = low - margin, high + margin

    def x(self, steps: Numbers) -> Numbers:
        share = (steps - self.first) / (self.last - self.first or 1.0)
        return np.asarray(LEFT + share * (RIGHT - LEFT))

    def y(self, values: Numbers) -> Numbers:
        return np.asarray(BOTTOM - (values - self._low) / (self._high - self._low) * (BOTTOM - TOP))

    def path(self, steps: Numbers, values: Numbers) -> str:
        places = zip(self.x(steps).tolist(), self.y(values).tolist(), strict=True)
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)

    def line(self, steps: Numbers, values: Numbers, role: str, classes: str = "") -> str:
        """One point alone is a dot: its path goes nowhere and has round ends."""
        d = self.path(steps, values) + ("h0" if len(steps) == 1 else "")
        return f'<path class="curve {classes}" style="stroke:var(--{role})" d="{d}"/>'

    def grid(self) -> str:
        """Lines at round values with their numbers, and the first and the last step."""
        ticks = np.asarray(MaxNLocator(nbins=4).tick_values(self._low, self._high))
        inside = ticks[(ticks >= self._low) & (ticks <= self._high)]
        rows = "".join(
            f'<path class="rule" d="M{LEFT} {y:.1f}H{RIGHT}"/><text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{text}</text>"
            for text, y in zip(_rounded(inside), self.y(inside).tolist(), strict=True)
        )
        ends = f'<text x="{LEFT}" y="{BOTTOM + 18}">step {number(round(self.first))}</text>' + (
            f'<text x="{RIGHT}" y="{BOTTOM + 18}" text-anchor="end">{number(round(self.last))}</text>'
        )
        return rows + ends


def _rounded(ticks: Numbers) -> list[str]:
    """With as many places as tell neighbours apart."""
    largest = float(np.abs(ticks).max(initial=0.0))
    if not 1e-3 <= largest < 1e6:
        return [f"{tick:.1e}" if tick else "0" for tick in ticks.tolist()]
    apart = float(np.diff(ticks).min(initial=largest))
    places = max(0, math.ceil(-math.log10(apart) - 1e-9))
    return [f"{tick:.{min(places, 6)}f}" for tick in ticks.tolist()]


def _svg(title: str, last: str, axes: _Axes, curves: str) -> str:
    return (
        f'<svg class="sketch" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {last}")}">'
        f'<text class="title" x="4" y="18">{escape(title)}</text>'
        f'<text class="last" x="{RIGHT}" y="18" text-anchor="end">{escape(last)}</text>{axes.grid()}{curves}</svg>'
    )
