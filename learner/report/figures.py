"""Curves of a run as inline SVG, drawn by matplotlib without pyplot, which would keep global state.

Ink and series are drawn in stand-in colours that become CSS variables, so that the same figure fits a light and a dark page.
A long curve is shown as its mean over at most BINS bins, in a band from each bin's lowest to its highest value.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from learner.runs.reading import Points

BINS = 150
INCHES = (4.4, 2.3)
"""Small, so that the text remains readable on a narrow page."""
SQUARE_INCHES = (4.4, 4.4)
MARGINS = {"left": 0.13, "right": 0.98, "top": 0.87, "bottom": 0.2}
"""Margins, which are the same in every figure, so that neighbours on the page line up."""
MAX_RUNS = 8
"""Runs that a reader can distinguish in one figure."""
ROLES = {"ink": "#010101", "faint": "#020202", "student": "#030303", "teacher": "#040404", "trace": "#050505"} | {
    f"run{index}": f"#06{index:02x}06" for index in range(MAX_RUNS)
}
"""The role of a line, and the stand-in colour in which it is drawn; the style of the page gives each role its colour."""
_RC: dict[Any, Any] = {"svg.fonttype": "none", "font.size": 9.0, "font.family": "sans-serif", "axes.titlesize": 9.5}


def curve(title: str, points: Points, *, level: tuple[str, float] | None = None) -> str:
    """Draw a quantity over steps. Points that are not finite are left out; level: name and value of a dashed line."""
    figure, axes = _canvas(title)
    steps, mean, lowest, highest = binned(*points)
    axes.fill_between(steps, lowest, highest, color=ROLES["trace"], alpha=0.22, linewidth=0)
    axes.plot(steps, mean, color=ROLES["trace"], linewidth=1.5)
    if level is not None:
        _dashed(axes, level[1], "ink")
        axes.annotate(
            level[0], (1, level[1]), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=ROLES["ink"]
        )
    return _svg(figure)


def encoder_curves(title: str, lines: Mapping[str, Points], *, dashed: bool = True) -> str:
    """Draw accuracies, 0 to 1, in percent over steps: a line for each encoder, and if asked a dashed one at its first value.

    At most BINS points are drawn, evenly spread, with the first and the last among them.
    """
    figure, axes = _canvas(title)
    for encoder, (steps, accuracy) in lines.items():
        role = encoder if encoder in ROLES else "trace"
        if dashed:
            _dashed(axes, 100 * accuracy[0], role)
        drawn = evenly(len(steps), BINS)
        axes.plot(steps[drawn], 100 * accuracy[drawn], color=ROLES[role], linewidth=1.8, marker="o", markersize=3.5)
    return _svg(figure)


def run_curves(
    title: str,
    groups: Sequence[Sequence[Points]],
    means: Sequence[tuple[NDArray[np.float64], ...] | None] = (),
    *,
    scale: float = 1.0,
    xlabel: str = "step",
) -> str:
    """Draw a quantity in several groups of runs, each in its own colour, as the means of at most BINS bins.

    means: of each group x, mean and half of its interval, which are drawn as a line in a band in place of its runs, which become
    thin; None: it has one run. An earlier line is broader than a later one, so that lines that coincide are all seen.
    """
    figure, axes = _canvas(title)
    axes.set_xlabel(xlabel, color=ROLES["ink"])
    for index, lines in enumerate(groups):
        colour, broad = ROLES[f"run{index}"], 1.4 + 1.6 * (len(groups) - 1 - index) / max(1, len(groups) - 1)
        mean = means[index] if index < len(means) else None
        has_mean = mean is not None and len(mean[0]) > 0
        for points in lines:
            x, y, _, _ = binned(*points)
            style: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.5} if has_mean else {"linewidth": broad}
            axes.plot(x, scale * y, color=colour, marker="o" if len(x) == 1 else "", **style)
        if mean is not None and has_mean:
            x, middle, half = mean
            axes.fill_between(
                x, scale * (middle - half), scale * (middle + half), color=colour, alpha=0.18, linewidth=0
            )
            axes.plot(x, scale * middle, color=colour, linewidth=broad)
    return _svg(figure)


def time_map(title: str, positions: NDArray[np.float64]) -> str:
    """Draw positions [n, 2] in the order of time: a thin line through all, and dots from violet (first) to yellow (last)."""
    figure, axes = _canvas(title)
    figure.set_size_inches(SQUARE_INCHES)
    figure.subplots_adjust(left=0.03, right=0.97, top=0.93, bottom=0.03)
    axes.plot(positions[:, 0], positions[:, 1], color=ROLES["faint"], linewidth=0.8)
    shades = mpl.colormaps["plasma"](np.linspace(0.25, 0.88, len(positions)))
    axes.scatter(positions[:, 0], positions[:, 1], c=shades, s=14, linewidths=0, zorder=2)
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[], xlabel="")
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines["bottom"].set_visible(False)
    return _svg(figure)


def binned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return mean x and mean, lowest and highest y [n] of n <= BINS bins with equally many finite points, to within one."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    bins = min(BINS, len(x))
    starts = np.arange(bins) * len(x) // max(1, bins)
    sizes = np.diff(starts, append=len(x))
    means = (np.add.reduceat(values, starts) / sizes for values in (x, y))
    return (*means, np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)) if bins else (x, y, y, y)


def evenly(count: int, limit: int) -> NDArray[np.intp]:
    """Return at most `limit` of the indices below `count`, evenly spread, with the first and the last among them."""
    return np.linspace(0, count - 1, min(limit, count)).round().astype(np.intp)


def _canvas(title: str) -> tuple[Figure, Axes]:
    with mpl.rc_context(_RC):
        figure = Figure(figsize=INCHES)
        figure.subplots_adjust(**MARGINS)
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", color=ROLES["ink"], fontweight="bold", parse_math=False)
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(ROLES["faint"])
    axes.grid(axis="y", color=ROLES["faint"], linewidth=0.6, alpha=0.6)
    axes.tick_params(colors=ROLES["ink"], length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.yaxis.get_offset_text().set(x=1, ha="right")  # such as 1e-5: on the left it would lie on the title
    axes.set_xlabel("step", color=ROLES["ink"])
    return figure, axes


def _dashed(axes: Axes, y: float, role: str) -> None:
    axes.axhline(y, color=ROLES[role], linewidth=1.0, linestyle=(0, (4, 3)), alpha=0.8)


def _svg(figure: Figure) -> str:
    """Return the figure as an `<svg>` element in the font and colours of the page."""
    buffer = io.StringIO()
    with mpl.rc_context(_RC | {"svg.hashsalt": "babyagent"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    # Nothing refers to the ids of groups, which would repeat on the page.
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])
    for side in ("height", "width"):
        svg = re.sub(rf'(<svg[^>]*?) {side}="[^"]*"', r"\1", svg, count=1)
    for role, stand_in in ROLES.items():
        svg = svg.replace(stand_in, f"var(--{role})")
    return svg
