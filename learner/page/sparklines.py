"""Curves as small SVG elements. They are drawn every few seconds beside training, for which matplotlib would be too slow.

Colours are the CSS variables of `learner.report.style`, so that the same curve fits a light and a dark page. A curve carries the
range of its axes, from which the script of the page reads the values under a pointer (`live.js`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from learner.report.figures import BINS, ROLES, binned, evenly
from learner.report.html import escape, number
from learner.runs.reading import Points

WIDTH, HEIGHT = 360, 180
LEFT, RIGHT, TOP, BOTTOM = 50, 352, 34, 152
"""Borders of the plot, in units of about a pixel on a phone."""
TITLE_CHARACTER = 7.2
"""Mean width of a character in the title of a curve, in these units."""


def curve(title: str, points: Points) -> str:
    """Draw a quantity over steps as means of bins, in a band from the lowest to the highest value, with its last value above."""
    steps, mean, lowest, highest = binned(*points)
    axes = _Axes(steps, (lowest, highest))
    band = axes.path(np.concatenate([steps, steps[::-1]]), np.concatenate([highest, lowest[::-1]]))
    drawn = f'<path class="band" d="{band}z"/>{axes.line(steps, mean, "trace")}'
    last = points[1][np.isfinite(points[1])][-1]
    return _svg(title, number(float(last)), axes, drawn)


def encoder_curves(title: str, lines: Mapping[str, Points], *, scale: float = 1.0, is_gain: bool = False) -> str:
    """Draw a line for each encoder over steps, a dashed one at its first value, with the last values above.

    lines: by role, a name of `learner.report.figures.ROLES`, which gives a line its colour. is_gain: the last values get a sign.
    """
    scaled = {encoder: (steps, scale * values) for encoder, (steps, values) in lines.items()}
    axes = _Axes(*(np.concatenate(some) for some in zip(*scaled.values(), strict=True)))
    drawn = []
    for encoder, (steps, values) in scaled.items():
        role = encoder if encoder in ROLES else "trace"
        thin = evenly(len(steps), BINS)
        start = axes.line(np.array([axes.first, axes.last]), values[[0, 0]], role, "start")
        drawn.append(start + axes.line(steps[thin], values[thin], role, "probes"))
    last = " / ".join(f"{values[-1]:{'+.3g' if is_gain else '.3g'}}" for _, values in scaled.values())
    return _svg(title, last, axes, "".join(drawn))


class _Axes:
    """Maps numbers to places in the picture. values: arrays whose whole range is visible."""

    def __init__(self, steps: NDArray[np.float64], values: Iterable[NDArray[np.float64]]) -> None:
        every = np.concatenate([np.ravel(some) for some in values])
        self.first, self.last = float(steps.min()), float(steps.max())
        low, high = float(every.min()), float(every.max())
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        self._low, self._high = low - margin, high + margin

    def x(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        share = (steps - self.first) / (self.last - self.first or 1.0)
        return np.asarray(LEFT + share * (RIGHT - LEFT))

    def y(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(BOTTOM - (values - self._low) / (self._high - self._low) * (BOTTOM - TOP))

    @property
    def range(self) -> str:
        """First and last step, lowest and highest value of the plot, for the script."""
        return " ".join(f"{value:.9g}" for value in (self.first, self.last, self._low, self._high))

    def path(self, steps: NDArray[np.float64], values: NDArray[np.float64]) -> str:
        places = zip(self.x(steps).tolist(), self.y(values).tolist(), strict=True)
        return "M" + "L".join(f"{x:.1f} {y:.2f}" for x, y in places)

    def line(self, steps: NDArray[np.float64], values: NDArray[np.float64], role: str, classes: str = "") -> str:
        """Return a line; a single point becomes a dot, since its path has no length and round ends."""
        is_dot = len(steps) == 1
        d, classes = self.path(steps, values) + "h0" * is_dot, classes + " dot" * is_dot
        return f'<path class="curve {classes}" style="stroke:var(--{role})" d="{d}"/>'

    def grid(self) -> str:
        """Return lines at round values and marks at round steps, each with its number."""
        ticks = np.asarray(MaxNLocator(nbins=4).tick_values(self._low, self._high))
        inside = ticks[(ticks >= self._low) & (ticks <= self._high)]
        rows = "".join(
            f'<path class="rule" d="M{LEFT} {y:.1f}H{RIGHT}"/><text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{text}</text>"
            for text, y in zip(_rounded(inside), self.y(inside).tolist(), strict=True)
        )
        steps = np.asarray(MaxNLocator(nbins=4, integer=True, min_n_ticks=2).tick_values(self.first, self.last))
        steps = (
            steps[(steps >= self.first) & (steps <= self.last)] if self.last > self.first else np.array([self.first])
        )
        columns = "".join(
            f'<path class="rule" d="M{x:.1f} {BOTTOM}v4"/><text x="{x:.1f}" y="{BOTTOM + 17}" text-anchor="{anchor(x)}">'
            f"{number(round(step))}</text>"
            for step, x in zip(steps.tolist(), self.x(steps).tolist(), strict=True)
        )
        name = f'<text x="{LEFT - 6}" y="{BOTTOM + 17}" text-anchor="end">step</text>'
        return f'{rows}<g class="steps">{columns}{name}</g>'


def anchor(x: float) -> str:
    """Return where a label at x begins, so that it stays inside the picture."""
    return "start" if x < LEFT + 12 else "end" if x > RIGHT - 16 else "middle"


def _rounded(ticks: NDArray[np.float64]) -> list[str]:
    """Return the values as text, with as many decimals as distinguish neighbours."""
    largest = float(np.abs(ticks).max(initial=0.0))
    if not 1e-3 <= largest < 1e6:
        return [f"{tick:.1e}" if tick else "0" for tick in ticks.tolist()]
    apart = float(np.diff(ticks).min(initial=largest))
    places = max(0, math.ceil(-math.log10(apart) - 1e-9))
    places += not math.isclose(round(apart, places), apart, rel_tol=1e-6)  # a distance of 2.5 needs one more
    return [f"{tick:.{min(places, 6)}f}" for tick in ticks.tolist()]


def _fitting(title: str, width: float) -> str:
    """Return a title that is no wider than so many units. Its name, in front of a colon, is cut; what was measured stays."""
    name, colon, rest = title.rpartition(": ")
    room = max(1, int(width / TITLE_CHARACTER) - len(colon + rest))
    return title if len(name) <= room else f"{name[: room - 1]}…{colon}{rest}"


def _svg(title: str, last: str, axes: _Axes, curves: str) -> str:
    label = escape(f"{title}, over steps")
    shown = _fitting(title, RIGHT - 8 - TITLE_CHARACTER * (len(last) + 2))
    value = f'aria-valuemin="{axes.first:.0f}" aria-valuemax="{axes.last:.0f}" aria-valuenow="{axes.last:.0f}"'
    return (
        f'<svg class="sketch" viewBox="0 0 {WIDTH} {HEIGHT}" role="slider" tabindex="0" aria-label="{label}" '
        f'aria-readonly="true" {value} aria-valuetext="{escape(f"last value {last}")}" data-range="{axes.range}" '
        f'data-box="{LEFT} {RIGHT} {TOP} {BOTTOM}"><text class="title" x="4" y="18">{escape(shown)}</text>'
        f'<text class="last" x="{RIGHT}" y="18" text-anchor="end">{escape(last)}</text>{axes.grid()}{curves}</svg>'
    )
