"""Tables and a plot of the runs that were compared. Pure, except that it writes the plot to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.shared.paired import Difference, Floats, Line, SeedRuns, by_seed, markdown, paired
from benchmarks.shared.probing import PROBES

NOTES = """Accuracy of the student in percent: the mean over seeds, ± half of its 95 % interval (Student's t). "gain" is the last
value less that at the random start, "against the first row" is paired by seed. An interval that holds 0 shows no difference; of
many rows some will seem different by chance. The plot shows the range of two seeds: their interval would cover all curves."""
COLOURS = ("#1f6f8b", "#d08b2c", "#7a5195", "#4c9f70", "#c8553d", "#666666")


def grouped(lines: Sequence[Line]) -> SeedRuns:
    """Return the lines by objective and policy, with the seeds that all of them have."""
    return by_seed([{**line, "row": f"{line['objective']}, {line['policy']}"} for line in lines], "row")


def tables(lines: Sequence[Line]) -> str:
    """Return a table for each probe, and what they are made of."""
    runs = grouped(lines)
    first = runs.lines[runs.names[0]]
    probes = [name for name in first[0]["curve"][0] if name.rpartition(" ")[2] in PROBES]
    head = ("objective, policy", "random start", "last", "gain", "against the first row", "CPU-s a run")
    parts = [
        f"{len(runs.seeds)} seeds, {first[0]['steps']} steps, {first[0]['pairs']} pairs of {first[0]['recording']}."
    ]
    for probe in probes:
        rows = [_row(runs, name, probe) for name in runs.names]
        set_name, _, kind = probe.rpartition(" ")
        parts += [f"**{set_name}, {PROBES[kind]}**", markdown(head, rows)]
    return "\n\n".join([*parts, NOTES])


def _row(runs: SeedRuns, name: str, probe: str) -> list[str]:
    start, last = (_values(runs.lines[name], probe, at) for at in (0, -1))
    reference = _values(runs.lines[runs.names[0]], probe, -1)
    against = "" if name == runs.names[0] else str(paired(last - reference))
    cpu_s = np.mean([line["curve"][-1]["cpu_s"] for line in runs.lines[name]])
    return [name, _mean(paired(start)), _mean(paired(last)), str(paired(last - start)), against, f"{cpu_s:.0f}"]


def _values(lines: Sequence[Line], probe: str, at: int) -> Floats:
    return np.array([100 * line["curve"][at][probe] for line in lines])


def _mean(found: Difference) -> str:
    return str(found).lstrip("+")


def plot(lines: Sequence[Line], path: Path) -> None:
    """Write a PNG of the k-NN accuracies by step, a panel for each labelled set, with the 95 % interval or the range
    of two seeds.
    """
    runs = grouped(lines)
    curve = runs.lines[runs.names[0]][0]["curve"]
    probes = [name for name in curve[0] if name.endswith(" knn")]
    figure = Figure(figsize=(1.5 + 3.6 * len(probes), 3.4), layout="constrained")
    for axis, probe in zip(figure.subplots(1, len(probes), squeeze=False)[0], probes, strict=True):
        for number, name in enumerate(runs.names):
            steps = [point["step"] for point in runs.lines[name][0]["curve"]]
            found = [paired(_values(runs.lines[name], probe, at)) for at in range(len(steps))]
            mean, half = (np.nan_to_num([getattr(one, part) for one in found]) for part in ("mean", "half"))
            look = {"color": COLOURS[number % len(COLOURS)], "ls": ("-", "--", ":")[number // len(COLOURS) % 3]}
            axis.plot(steps, mean, label=name, marker="o", ms=3, lw=1.4, **look)
            if len(runs.seeds) == 2:  # whose interval is wider than the panel
                half = np.array([np.ptp(_values(runs.lines[name], probe, at)) / 2 for at in range(len(steps))])
            axis.fill_between(steps, mean - half, mean + half, color=look["color"], alpha=0.12, lw=0)
        axis.set_title(f"{probe.removesuffix(' knn')}, k-NN, %", fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.grid(color="#dddddd", lw=0.6)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
