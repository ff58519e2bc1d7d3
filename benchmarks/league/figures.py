"""The table and the plot of the league. Pure, except that it writes the plot to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.shared.paired import Floats, Line, SeedRuns, by_seed, markdown, paired
from benchmarks.shared.probing import PROBES

NOTES = """The accuracy of the student in percent, k-NN / linear: the mean over seeds. "Gain" is the mean over all sets of what it
is above the random start, ± half of the 95 % interval over seeds (Student's t; none for one seed). Best k-NN gain first. "MB a
step": what a step keeps from forward to backward. * A run stopped early, because the features became the same for all pairs or
the loss was not finite: its last good weights were measured. Nothing was tuned for this table, so an objective may do better."""


def tables(lines: Sequence[Line]) -> str:
    """Return the table, with the objective that gained most in its first row."""
    runs = by_seed(lines, "objective")
    first = runs.lines[runs.names[0]][0]
    sets = [name.removesuffix(f" {PROBES['knn']}") for name in first["after"] if name.endswith(PROBES["knn"])]
    gained = (f"gain, {name}" for name in PROBES.values())
    rows = [["random start", *_figures(runs.lines[runs.names[0]], "before", sets), "", "", "", "", ""]]
    rows += [_row(runs, name, sets) for name in ranked(runs)]
    head = ("objective", *sets, *gained, "steps", "samples a CPU-second", "MB a step")
    title = f"{len(runs.seeds)} seed(s), {first['cpu_min']:g} CPU-minutes each."
    return "\n\n".join([title, markdown(head, rows), NOTES])


def ranked(runs: SeedRuns) -> list[str]:
    """Return the names of the objectives, that with the largest mean k-NN gain first."""
    return sorted(runs.names, key=lambda name: -float(gains(runs.lines[name], "knn").mean()))


def gains(lines: Sequence[Line], probe: str) -> Floats:
    """Return the gain of each run in points, [runs], the mean over all sets. probe: knn or linear."""
    names = [name for name in lines[0]["after"] if name.endswith(f" {PROBES[probe]}")]
    return np.array([100 * np.mean([line["after"][name] - line["before"][name] for name in names]) for line in lines])


def _row(runs: SeedRuns, name: str, sets: Sequence[str]) -> list[str]:
    mine = runs.lines[name]
    gained = (str(paired(gains(mine, probe))) for probe in PROBES)
    means = (f"{np.mean([line[key] for line in mine]):.0f}" for key in ("steps", "samples_per_s", "step_mb"))
    mark = " *" if any(line.get("stopped") for line in mine) else ""
    return [f"`{name}`{mark}", *_figures(mine, "after", sets), *gained, *means]


def _figures(lines: Sequence[Line], when: str, sets: Sequence[str]) -> list[str]:
    def mean(name: str) -> str:
        return f"{100 * np.mean([line[when][name] for line in lines]):.1f}"

    return [" / ".join(mean(f"{name} {probe}") for probe in PROBES.values()) for name in sets]


def plot(lines: Sequence[Line], path: Path) -> None:
    """Write a PNG of the gains, a bar for each objective and probe, with 95 % intervals from three seeds on."""
    runs = by_seed(lines, "objective")
    names = ranked(runs)[::-1]
    figure = Figure(figsize=(6.5, 1.2 + 0.3 * len(names)), layout="constrained")
    axis, places = figure.subplots(), np.arange(len(names))
    for shift, colour, (probe, title) in zip((0.2, -0.2), ("#1f6f8b", "#d08b2c"), PROBES.items(), strict=True):
        found = [paired(gains(runs.lines[name], probe)) for name in names]
        halves = [one.half if len(runs.seeds) > 2 else 0.0 for one in found]
        axis.barh(places + shift, [one.mean for one in found], 0.38, xerr=halves, label=title, color=colour)
    axis.set_yticks(places, names, fontsize=8)
    axis.margins(y=0.01)
    axis.axvline(0, color="#333333", lw=0.8)
    axis.set_xlabel("gain over the random start, points, mean over all sets")
    axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
