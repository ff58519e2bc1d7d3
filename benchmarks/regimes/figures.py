"""What the runs of the regimes bench come to: the seed's two tables by day, comparisons paired by seed, and a plot. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.shared.paired import Difference, paired

Floats = NDArray[np.float64]
Line = Mapping[str, Any]
PROBES = {"linear": "Linear", "knn_10pct": "k-NN on 10 %"}
"""The seed's two tables; below, the second is also compared by k-NN over the whole bank."""
MEAN = "mean of control sets"
PLACES, FIRST = "places", "first day's places"
RANDOM, NIGHTLY, OURS, HALF, IID = "random", "nightly", "continuous", "continuous, half", "iid"


class Runs:
    """The runs of every regime over the seeds that all of them have. `names`: the control sets, without the places."""

    def __init__(self, lines: Sequence[Line]) -> None:
        of = {(line["regime"], line["seed"]): line for line in lines}
        self.regimes = list(dict.fromkeys(line["regime"] for line in lines))
        seeds = sorted({line["seed"] for line in lines})
        self.seeds = [seed for seed in seeds if all((regime, seed) in of for regime in self.regimes)]
        self.lines = {regime: [of[regime, seed] for seed in self.seeds] for regime in self.regimes}
        first = lines[0]["days"][0]["probes"]["student"]
        self.names = [name for name in first if name not in (PLACES, FIRST, "gauges")]
        self.days = len(lines[0]["days"])

    def of(self, regime: str, name: str, probe: str, network: str = "student") -> Floats:
        """Accuracies in percent [seeds, days] on a control set, on PLACES or FIRST, or their MEAN over the control sets."""
        if name == MEAN:
            every: Floats = np.mean([self.of(regime, each, probe, network) for each in self.names], axis=0)
            return every
        lines = self.lines[regime]
        return np.array([[100 * day["probes"][network][name][probe] for day in line["days"]] for line in lines])

    def figure(self, regime: str, name: str) -> Floats:
        """A figure of each day [seeds, days]."""
        return np.array([[day[name] for day in line["days"]] for line in self.lines[regime]])

    def less(self, regime: str, other: str, name: str, probe: str, day: int = -1) -> Difference:
        """The regime less the other on one day."""
        return paired(self.of(regime, name, probe)[:, day] - self.of(other, name, probe)[:, day])


def tables(lines: Sequence[Line]) -> str:
    """Markdown: each regime's two tables by day, then what the comparison comes to."""
    runs = Runs(lines)
    if not runs.seeds:
        return "No seed has every regime yet."
    parts = [_ends(runs), _claims(runs), _rotations(runs), _waits(runs)]
    parts += [_by_day(runs, regime, probe) for regime in runs.regimes if regime != RANDOM for probe in PROBES]
    return "\n\n".join(part for part in parts if part)


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _ends(runs: Runs) -> str:
    """The last day of all regimes."""
    columns = [*runs.names, MEAN, PLACES]
    rows = []
    for regime in runs.regimes:
        cells = [
            regime,
            f"{runs.figure(regime, 'steps')[:, -1].mean():.0f}",
            f"{runs.figure(regime, 'cpu_s')[:, -1].mean():.0f}",
        ]
        cells += [_last(runs, regime, name, "student") for name in columns]
        cells.append(_last(runs, regime, MEAN, "teacher"))
        rows.append(cells)
    head = ["regime", "steps", "CPU-s", *columns, f"{MEAN}, teacher"]
    return f"## The last day\n\nStudent, linear / k-NN on 10 %, mean of {len(runs.seeds)} seeds.\n\n" + _grid(
        head, rows
    )


def _last(runs: Runs, regime: str, name: str, network: str) -> str:
    return " / ".join(f"{runs.of(regime, name, probe, network)[:, -1].mean():.1f}" for probe in PROBES)


def _by_day(runs: Runs, regime: str, probe: str) -> str:
    names = [*runs.names, MEAN, PLACES, FIRST]
    start = [f"{runs.of(RANDOM, name, probe)[:, 0].mean():.1f}" for name in names] if RANDOM in runs.regimes else []
    rows = [["0", *start]] if start else []
    rows += [
        [str(day + 1), *(f"{runs.of(regime, name, probe)[:, day].mean():.1f}" for name in names)]
        for day in range(runs.days)
    ]
    return f"## {PROBES[probe]}, {regime}, by day\n\n" + _grid(["day", *names], rows)


def _claims(runs: Runs) -> str:
    """What was to be reached, with intervals."""
    said = []
    if {NIGHTLY, OURS} <= set(runs.regimes):
        said += [_each_day(runs, probe) for probe in PROBES]
        said += [_forgotten(runs)]
    if {NIGHTLY, HALF} <= set(runs.regimes):
        said.append("Half the compute against the nightly one on its last day: " + _differences(runs, HALF, NIGHTLY))
    if {OURS, IID} <= set(runs.regimes):
        said.append(
            "Continuous against shuffled training on the same pairs, last day: " + _differences(runs, OURS, IID)
        )
    if {OURS, IID, RANDOM} <= set(runs.regimes):
        shares = []
        for probe, title in PROBES.items():
            gains = [(runs.of(name, MEAN, probe) - runs.of(RANDOM, MEAN, probe))[:, -1].mean() for name in (OURS, IID)]
            shares.append(f"{title} {gains[0]:+.1f} of {gains[1]:+.1f} ({gains[0] / gains[1]:.2f})")
        said.append(
            f"Gain over the random start as a share of what shuffled training gains, {MEAN}: {', '.join(shares)}."
        )
    return "## What it comes to\n\n" + "\n".join(f"- {text}" for text in said) if said else ""


def _differences(runs: Runs, regime: str, other: str) -> str:
    found = [
        f"{name}: {', '.join(f'{PROBES[probe]} {runs.less(regime, other, name, probe)}' for probe in PROBES)}"
        for name in (MEAN, PLACES)
    ]
    return "; ".join(found) + "."


def _each_day(runs: Runs, probe: str) -> str:
    differences = [runs.less(OURS, NIGHTLY, MEAN, probe, day) for day in range(runs.days)]
    return f"{PROBES[probe]}, {MEAN}, continuous less nightly by day: {', '.join(map(str, differences))}."


def _forgotten(runs: Runs) -> str:
    """How far k-NN on the first day's places has fallen on the last day from its best."""
    falls = []
    for regime in runs.regimes:
        curve = runs.of(regime, FIRST, "knn")
        falls.append(f"{regime} {np.max(curve, axis=1).mean():.1f} -> {curve[:, -1].mean():.1f}")
    return f"The first day's rooms among all rooms, k-NN, best and last day: {'; '.join(falls)}."


def _rotations(runs: Runs) -> str:
    """Spread over turned test images, as the seed gives it: the standard deviation over the angles, mean over the sets."""
    rows = []
    for regime in runs.regimes:
        cells = [regime]
        for probe in PROBES:
            turned = np.array(
                [
                    [[at[probe] for at in line["turned"]["student"][name]] for name in runs.names]
                    for line in runs.lines[regime]
                ]
            )
            cells += [f"{turned.std(axis=2).mean():.3f}"]
            cells += [f"{100 * value:.1f}" for value in turned.mean(axis=(0, 1))]
        rows.append(cells)
    angles = [f"{degrees}°" for degrees in (0, 10, 20, 30, 40)]
    head = ["regime", *(word for title in PROBES.values() for word in (f"{title}: spread (0 to 1)", *angles))]
    return "## Turned images\n\nBank upright, test images turned, last day, mean of control sets.\n\n" + _grid(
        head, rows
    )


def _waits(runs: Runs) -> str:
    rows = []
    for regime in runs.regimes:
        waits = [day["waits_h"] for line in runs.lines[regime] for day in line["days"] if day["waits_h"]]
        if waits:
            mean, most = np.mean([wait["mean"] for wait in waits]), max(wait["most"] for wait in waits)
            rows.append([regime, f"{mean:.2f}", f"{most:.2f}"])
    text = (
        "Hours from a pair's capture to its first gradient; a night is taken to begin an hour after the day and to last no "
        "time."
    )
    return f"## Freshness\n\n{text}\n\n" + _grid(["regime", "mean", "longest"], rows) if rows else ""


_COLOURS = {
    RANDOM: "#999999",
    NIGHTLY: "#c0392b",
    "nightly, seed's numbers": "#e59866",
    OURS: "#1f6f8b",
    HALF: "#76b5c5",
    IID: "#3a7d44",
}
_PANELS = ((MEAN, "linear"), (MEAN, "knn_10pct"), (PLACES, "knn_10pct"), (FIRST, "knn"))


def plot(lines: Sequence[Line], path: Path) -> None:
    """Accuracy by day: mean over seeds in the band of the least and the greatest; a PNG."""
    runs = Runs(lines)
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    days = np.arange(runs.days + 1)
    for axis, (name, probe) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for regime in runs.regimes:
            curve = runs.of(regime, name, probe)
            start = runs.of(RANDOM, name, probe)[:, :1] if RANDOM in runs.regimes else curve[:, :1]
            curve = np.concatenate([start, curve], axis=1)
            axis.plot(days, curve.mean(axis=0), color=_COLOURS.get(regime), label=regime, lw=1.8)
            axis.fill_between(days, curve.min(axis=0), curve.max(axis=0), color=_COLOURS.get(regime), alpha=0.12, lw=0)
        axis.set_title(f"{name}, {PROBES.get(probe, 'k-NN')}", fontsize=10)
        axis.grid(color="#dddddd", lw=0.6)
        axis.set_xticks(days)
    figure.axes[0].legend(fontsize=8)
    figure.supxlabel(f"day; mean of {len(runs.seeds)} seeds, band from the least to the greatest", fontsize=9)
    figure.supylabel("accuracy, percent", fontsize=9)
    figure.savefig(path, dpi=120)
