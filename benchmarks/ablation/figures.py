"""What the runs of the ablation bench come to: differences from the preset, and which gauge foretold the probe. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.ablation.rows import PRESET
from benchmarks.shared.paired import paired

Floats = NDArray[np.float64]
Line = Mapping[str, Any]
PROBES = {"knn": "k-NN", "linear": "linear"}
ENDS = ("teacher_entropy", "prototypes_in_use", "kl", "crop_cosine")
"""Gauges of the last steps that stand beside the accuracies."""


class Runs:
    """The runs of each row over the seeds that all of them have. `sets`: the control sets, the places last."""

    def __init__(self, lines: Sequence[Line]) -> None:
        of = {(line["row"], line["seed"]): line for line in lines}
        self.rows = list(dict.fromkeys(line["row"] for line in lines))
        seeds = sorted({line["seed"] for line in lines})
        self.seeds = [seed for seed in seeds if all((row, seed) in of for row in self.rows)]
        self.lines = {row: [of[row, seed] for seed in self.seeds] for row in self.rows}
        student = lines[0]["curve"][0]["student"]
        self.sets = [name for name in student if isinstance(student[name], Mapping)]

    def gain(self, row: str, name: str, probe: str) -> Floats:
        """Percent above the random start at the end of the run, [seeds]."""
        curves = [[point["student"][name][probe] for point in line["curve"]] for line in self.lines[row]]
        return np.array([100 * (curve[-1] - curve[0]) for curve in curves])


def tables(lines: Sequence[Line], families: Mapping[str, Sequence[str]]) -> str:
    """Markdown: a table for each family of rows, gains of the preset and of each row less the preset's."""
    runs = Runs(lines)
    if not runs.seeds:
        return "No seed has every row yet."
    parts = []
    for family, rows in families.items():
        mine = [row for row in rows if row in runs.rows]
        if set(mine) - {PRESET}:
            parts.append(f"## {family}, {len(runs.seeds)} seeds\n\n{_LEGEND}\n\n{_table(runs, mine)}")
    return "\n\n".join(parts)


_LEGEND = (
    "First row: what the student gained over its random start, k-NN / linear, in percent. Other rows: how much more or less than "
    "that, paired by seed, ± the 95 % interval. Gauges are means of the last steps."
)


def _table(runs: Runs, rows: Sequence[str]) -> str:
    head = ["row", *runs.sets, "all but the last", "CPU time", *(name.replace("_", " ") for name in ENDS)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *_rows(runs, rows)))


def _rows(runs: Runs, rows: Sequence[str]) -> Iterator[list[str]]:
    for row in rows:
        cells = [row]
        cells += [" / ".join(_cell(runs, row, name, probe) for probe in PROBES) for name in (*runs.sets, None)]
        spent, base = ([line["curve"][-1]["cpu_s"] for line in runs.lines[each]] for each in (row, PRESET))
        cells.append(f"{np.mean(spent):.0f} s" if row == PRESET else f"{np.median(np.divide(spent, base)):.2f} x")
        for gauge in ENDS:
            values = [line["curve"][-1]["gauges"].get(gauge) for line in runs.lines[row]]
            cells.append("" if None in values else f"{np.mean(values):.2f}")
        yield cells


def _cell(runs: Runs, row: str, name: str | None, probe: str) -> str:
    """Of one set, or of the mean over all control sets but the places."""
    names = [name] if name is not None else runs.sets[:-1]
    mine, base = (np.mean([runs.gain(each, one, probe) for one in names], axis=0) for each in (row, PRESET))
    return f"{mine.mean():+.1f}" if row == PRESET else str(paired(mine - base))


def correlations(lines: Sequence[Line]) -> str:
    """Markdown: how well each gauge ranks the runs as the probes do (Spearman), over all runs and probes on the way."""
    points = [point for line in lines for point in line["curve"][1:]]
    sets = [name for name, value in points[0]["student"].items() if isinstance(value, Mapping)][:-1]
    accuracy = {
        probe: np.array([np.mean([p["student"][name][probe] for name in sets]) for p in points]) for probe in PROBES
    }
    gauges = dict.fromkeys(name for point in points for name in point["gauges"])
    values = {name: np.array([point["gauges"].get(name, np.nan) for point in points]) for name in gauges}
    values |= {name: np.array([point["student"][name] for point in points]) for name in ("rankme", "alpha_req")}
    rows = []
    for name, series in values.items():
        there = np.isfinite(series)
        if there.sum() > 2 and np.ptp(series[there]):
            found = [stats.spearmanr(series[there], accuracy[probe][there]).statistic for probe in PROBES]
            rows.append(f"| {name} | {int(there.sum())} | " + " | ".join(f"{value:+.2f}" for value in found) + " |")
    head = "| gauge | probes | with k-NN | with linear |\n| --- | --- | --- | --- |"
    note = "Rank correlation with the mean accuracy on the control sets (not the places), over rows, seeds and moments."
    return f"## Which gauge foretells the probe?\n\n{note}\n\n{head}\n" + "\n".join(rows)
