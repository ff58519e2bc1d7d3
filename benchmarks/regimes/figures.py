"""The figures of the regimes bench: tables by day as in the original experiment, comparisons paired by seed, and a plot. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.shared.paired import Difference, Floats, Line, SeedRuns, by_seed, markdown, paired
from benchmarks.shared.probing import PLACES

PROBES = {"linear": "Linear", "knn_10pct": "k-NN on 10 %"}
"""The accuracies of the two tables in the original experiment."""
MEAN = "mean of control sets"
FIRST_DAY = "first day's places"
DEGREES = (0, 10, 20, 30, 40)
"""Angles by which control images are rotated: up to forty degrees, as in the original experiment."""
RANDOM, NIGHTLY, OURS, HALF, IID = "random", "nightly", "continuous", "continuous, half", "iid"


class Regimes:
    """The result lines of every regime, over the seeds that all of them have. `names`: the control sets without the places."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.runs: SeedRuns = by_seed(lines, "regime")
        self.names = [
            name for name in lines[0]["days"][0]["probes"]["student"] if name not in (PLACES, FIRST_DAY, "gauges")
        ]
        self.days = len(lines[0]["days"])

    def has(self, *regimes: str) -> bool:
        """Return whether all of these regimes were run."""
        return set(regimes) <= set(self.runs.names)

    def accuracy(self, regime: str, name: str, probe: str, network: str = "student") -> Floats:
        """Return the accuracies in percent, [seeds, days].

        name: a control set, PLACES, FIRST_DAY, or MEAN for the mean over the control sets.
        """
        if name == MEAN:
            every: Floats = np.mean([self.accuracy(regime, each, probe, network) for each in self.names], axis=0)
            return every
        lines = self.runs.lines[regime]
        return np.array([[100 * day["probes"][network][name][probe] for day in line["days"]] for line in lines])

    def last(self, regime: str, name: str, probe: str, network: str = "student") -> float:
        """Return the mean accuracy on the last day, percent."""
        return float(self.accuracy(regime, name, probe, network)[:, -1].mean())

    def difference(self, regime: str, other: str, name: str, probe: str, day: int = -1) -> Difference:
        """Return the difference between a regime and another one on one day."""
        return paired(self.accuracy(regime, name, probe)[:, day] - self.accuracy(other, name, probe)[:, day])


def tables(lines: Sequence[Line]) -> str:
    """Return Markdown: the last day, the comparisons, rotated images and waits, then each regime's two tables by day."""
    found = Regimes(lines)
    if not found.runs.seeds:
        return "No seed has every regime yet."
    parts = [_last_day(found), _comparisons(found), _rotations(found), _waits(found)]
    parts += [_by_day(found, regime, probe) for regime in found.runs.names if regime != RANDOM for probe in PROBES]
    return "\n\n".join(part for part in parts if part)


def _last_day(found: Regimes) -> str:
    columns = [*((name, "student") for name in (*found.names, MEAN, PLACES)), (MEAN, "teacher")]
    rows = []
    for regime in found.runs.names:
        ends = [line["days"][-1] for line in found.runs.lines[regime]]
        cells = [f"{np.mean([day[name] for day in ends]):.0f}" for name in ("steps", "cpu_s")]
        for name, network in columns:
            cells.append(" / ".join(f"{found.last(regime, name, probe, network):.1f}" for probe in PROBES))
        rows.append([regime, *cells])
    head = ["regime", "steps", "CPU-s", *found.names, MEAN, PLACES, f"{MEAN}, teacher"]
    note = f"Student, linear / k-NN on 10 %, mean of {len(found.runs.seeds)} seeds."
    return f"## The last day\n\n{note}\n\n{markdown(head, rows)}"


def _by_day(found: Regimes, regime: str, probe: str) -> str:
    names = [*found.names, MEAN, PLACES, FIRST_DAY]

    def row(number: int, regime: str, day: int) -> list[str]:
        return [str(number), *(f"{found.accuracy(regime, name, probe)[:, day].mean():.1f}" for name in names)]

    rows = [row(0, RANDOM, 0)] if found.has(RANDOM) else []
    rows += [row(day + 1, regime, day) for day in range(found.days)]
    return f"## {PROBES[probe]}, {regime}, by day\n\n{markdown(['day', *names], rows)}"


def _comparisons(found: Regimes) -> str:
    sentences = list(_sentences(found))
    return "## Comparisons\n\n" + "\n".join(f"- {text}" for text in sentences) if sentences else ""


def _sentences(found: Regimes) -> Iterator[str]:
    """Yield the conclusions as sentences with intervals, for the regimes that were run."""
    if found.has(NIGHTLY, OURS):
        for probe, title in PROBES.items():
            by_day = (str(found.difference(OURS, NIGHTLY, MEAN, probe, day)) for day in range(found.days))
            yield f"{title}, {MEAN}, continuous minus nightly by day: {', '.join(by_day)}."
        yield _forgetting(found)
    if found.has(NIGHTLY, HALF):
        yield "Half the compute against the nightly one on its last day: " + _differences(found, HALF, NIGHTLY)
    if found.has(OURS, IID):
        yield "Continuous against shuffled training on the same pairs, last day: " + _differences(found, OURS, IID)
    if found.has(OURS, IID, RANDOM):
        shares = []
        for probe, title in PROBES.items():
            start = found.last(RANDOM, MEAN, probe)
            ours, shuffled = (found.last(regime, MEAN, probe) - start for regime in (OURS, IID))
            shares.append(f"{title} {ours:+.1f} of {shuffled:+.1f} ({_ratio(ours, shuffled)})")
        yield f"Gain over the random start as a share of what shuffled training gains, {MEAN}: {', '.join(shares)}."


def _ratio(value: float, other: float) -> str:
    return f"{value / other:.2f}" if other else "nan"


def _differences(found: Regimes, regime: str, other: str) -> str:
    texts = [
        f"{name}: {', '.join(f'{title} {found.difference(regime, other, name, probe)}' for probe, title in PROBES.items())}"
        for name in (MEAN, PLACES)
    ]
    return "; ".join(texts) + "."


def _forgetting(found: Regimes) -> str:
    """Return, as text, by how much k-NN on the first day's places is lower on the last day than at its best."""
    falls = []
    for regime in found.runs.names:
        curve = found.accuracy(regime, FIRST_DAY, "knn")
        falls.append(f"{regime} {np.max(curve, axis=1).mean():.1f} -> {curve[:, -1].mean():.1f}")
    return f"The first day's rooms among all rooms, k-NN, best and last day: {'; '.join(falls)}."


def _rotations(found: Regimes) -> str:
    """Return a table of the accuracy at each angle and its standard deviation over the angles; means over the control sets."""
    rows = []
    for regime, lines in found.runs.lines.items():
        cells = [regime]
        for probe in PROBES:
            students = [line["turned"]["student"] for line in lines]
            turned = np.array([[[at[probe] for at in student[name]] for name in found.names] for student in students])
            cells += [f"{turned.std(axis=2).mean():.3f}", *(f"{100 * value:.1f}" for value in turned.mean(axis=(0, 1)))]
        rows.append(cells)
    angles = [f"{degrees}°" for degrees in DEGREES]
    head = ["regime", *(word for title in PROBES.values() for word in (f"{title}: spread (0 to 1)", *angles))]
    note = "Bank upright, test images turned, last day, mean of control sets."
    return f"## Turned images\n\n{note}\n\n{markdown(head, rows)}"


def _waits(found: Regimes) -> str:
    rows = []
    for regime, lines in found.runs.lines.items():
        waits = [day["waits_h"] for line in lines for day in line["days"] if day["waits_h"]]
        if waits:
            mean, longest = np.mean([wait["mean"] for wait in waits]), max(wait["most"] for wait in waits)
            rows.append([regime, f"{mean:.2f}", f"{longest:.2f}"])
    note = (
        "Hours from a pair's capture to its first gradient; a night is counted as beginning an hour after the day and as taking "
        "no time."
    )
    return f"## Freshness\n\n{note}\n\n{markdown(['regime', 'mean', 'longest'], rows)}" if rows else ""


_COLOURS = {
    RANDOM: "#999999",
    NIGHTLY: "#c0392b",
    "nightly, original numbers": "#e59866",
    OURS: "#1f6f8b",
    HALF: "#76b5c5",
    IID: "#3a7d44",
}
_PANELS = ((MEAN, "linear"), (MEAN, "knn_10pct"), (PLACES, "knn_10pct"), (FIRST_DAY, "knn"))


def plot(lines: Sequence[Line], path: Path) -> None:
    """Write a PNG of accuracy by day: the mean over seeds, in a band from the lowest to the highest seed."""
    found = Regimes(lines)
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    days = np.arange(found.days + 1)
    for axis, (name, probe) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for regime in found.runs.names:
            curve = found.accuracy(regime, name, probe)
            start = found.accuracy(RANDOM if found.has(RANDOM) else regime, name, probe)[:, :1]
            curve = np.concatenate([start, curve], axis=1)
            axis.plot(days, curve.mean(axis=0), color=_COLOURS.get(regime), label=regime, lw=1.8)
            axis.fill_between(days, curve.min(axis=0), curve.max(axis=0), color=_COLOURS.get(regime), alpha=0.12, lw=0)
        axis.set_title(f"{name}, {PROBES.get(probe, 'k-NN')}", fontsize=10)
        axis.grid(color="#dddddd", lw=0.6)
        axis.set_xticks(days)
    figure.axes[0].legend(fontsize=8)
    figure.supxlabel(f"day; mean of {len(found.runs.seeds)} seeds, band from the least to the greatest", fontsize=9)
    figure.supylabel("accuracy, percent", fontsize=9)
    figure.savefig(path, dpi=120)
