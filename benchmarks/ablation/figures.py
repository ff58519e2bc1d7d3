"""The figures of the ablation bench: differences from the preset, and which gauge predicts the probe. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from benchmarks.ablation.rows import PRESET
from benchmarks.shared.paired import Floats, Line, SeedRuns, by_seed, markdown, paired
from benchmarks.shared.probing import PROBES

SHOWN_GAUGES = ("teacher_entropy", "prototypes_in_use", "kl", "crop_cosine")
"""Gauges of the last steps that stand beside the accuracies."""
LEGEND = (
    "First row: what the student gained over its random start, k-NN / linear, in percent. Other rows: how much more or less than "
    "that, paired by seed, ± the 95 % interval. Gauges are means of the last steps."
)


def control_names(line: Line) -> list[str]:
    """Return the names of the control sets in a result line; the places are last."""
    student = line["curve"][0]["student"]
    return [name for name in student if isinstance(student[name], Mapping)]


def tables(lines: Sequence[Line], families: Mapping[str, Sequence[str]]) -> str:
    """Return Markdown: a table for each family of rows, with the gains of the preset and each row's difference from it."""
    runs = by_seed(lines, "row")
    if not runs.seeds:
        return "No seed has every row yet."
    parts = []
    for family, rows in families.items():
        mine = [row for row in rows if row in runs.names]
        if set(mine) - {PRESET}:
            parts.append(f"## {family}, {len(runs.seeds)} seeds\n\n{LEGEND}\n\n{_table(runs, mine)}")
    return "\n\n".join(parts)


def _table(runs: SeedRuns, rows: Sequence[str]) -> str:
    names = control_names(runs.lines[PRESET][0])
    gauges = (name.replace("_", " ") for name in SHOWN_GAUGES)
    head = ["row", *names, "all but the last", "CPU time", *gauges]
    return markdown(head, list(_rows(runs, rows, [*([name] for name in names), names[:-1]])))


def _rows(runs: SeedRuns, rows: Sequence[str], columns: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Yield the cells of each row. columns: for each column the control sets whose mean it shows."""
    for row in rows:
        last, base = ([line["curve"][-1] for line in runs.lines[name]] for name in (row, PRESET))
        cells = [" / ".join(_gain_cell(runs, row, names, probe) for probe in PROBES) for names in columns]
        gauges = [[point["gauges"].get(gauge) for point in last] for gauge in SHOWN_GAUGES]
        means = ["" if None in values else f"{np.mean(values):.2f}" for values in gauges]
        yield [row, *cells, _time_cell(row, *([point["cpu_s"] for point in points] for points in (last, base))), *means]


def _gain_cell(runs: SeedRuns, row: str, names: Sequence[str], probe: str) -> str:
    mine, base = (np.mean([_gain(runs, each, name, probe) for name in names], axis=0) for each in (row, PRESET))
    return f"{mine.mean():+.1f}" if row == PRESET else str(paired(mine - base))


def _gain(runs: SeedRuns, row: str, name: str, probe: str) -> Floats:
    """Return the gain in percent over the random start at the end of the run, float [seeds]."""
    ends = [[line["curve"][at]["student"][name][probe] for at in (0, -1)] for line in runs.lines[row]]
    return np.array([100 * (last - first) for first, last in ends])


def _time_cell(row: str, spent_s: Sequence[float], base_s: Sequence[float]) -> str:
    """Return the seconds of the preset, or another row's ratio to them; empty if a run was too short to be measured."""
    if row == PRESET:
        return f"{np.mean(spent_s):.0f} s"
    return f"{np.median(np.divide(spent_s, base_s)):.2f} x" if all(base_s) else ""


def correlations(lines: Sequence[Line]) -> str:
    """Return Markdown: how well each gauge ranks the runs as the probes do (Spearman's correlation), over all runs and probes."""
    points = [point for line in lines for point in line["curve"][1:]]
    sets = control_names(lines[0])[:-1]
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
            rows.append([name, str(int(there.sum())), *(f"{value:+.2f}" for value in found)])
    note = "Rank correlation with the mean accuracy on the control sets (not the places), over rows, seeds and moments."
    table = markdown(["gauge", "probes", "with k-NN", "with linear"], rows)
    return f"## Which gauge predicts the probe?\n\n{note}\n\n{table}"
