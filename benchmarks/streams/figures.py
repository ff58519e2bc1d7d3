"""Tables and a plot of what each order of a walk gave to each objective. Pure, except that it writes the plot to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.shared.paired import Difference, Floats, Line, SeedRuns, by_seed, markdown, paired
from benchmarks.shared.probing import PROBES

NOTES = """Gains are points of accuracy over the random start, the mean over all control sets; ± half of the 95 % interval over
seeds (Student's t). Against shuffled: how many k-NN points more than with the kept pairs in random order, paired by seed. Of
shuffled: the k-NN gain as a share of that one, the mean of each seed's; empty where that one is below a point in a seed.
Alike: the mean cosine of two frames' grey pictures, within a batch and from one batch to the next. Nearest: of a frame and
that one of the next batch that is most like it; empty for runs of before it was measured."""
LIKENESS = {"within": "alike within", "between": "alike between", "nearest": "nearest in the next"}
"""Titles of how alike frames are (`benchmarks.streams.orders.Likeness`)."""
LEAST_GAIN = 1.0
"""Points below which a gain is no whole to take a share of."""
COLOURS = ("#c8553d", "#d08b2c", "#1f6f8b", "#666666", "#7a5195", "#4c9f70", "#a0a0a0")


def grouped(lines: Sequence[Line]) -> dict[str, SeedRuns]:
    """Return the lines of each objective by stream, with the seeds that all its streams have."""
    names = dict.fromkeys(line["objective"] for line in lines)
    return {name: by_seed([line for line in lines if line["objective"] == name], "stream") for name in names}


def gains(lines: Sequence[Line], probe: str) -> Floats:
    """Return the gain of each run in points, [runs], the mean over all control sets. probe: knn or linear."""
    return np.array([_gain(line, probe) for line in lines])


def _gain(line: Line, probe: str) -> float:
    names = [name for name in line["after"] if name.endswith(f" {probe}")]
    return 100 * float(np.mean([line["after"][name] - line["before"][name] for name in names]))


def shares(lines: Sequence[Line], stream: str, whole: str) -> dict[str, Difference]:
    """Return, for each objective, the k-NN gain with one stream as a share of that with another one, over seeds.

    An objective that gains less than LEAST_GAIN with the other one in a seed is left out.
    """
    found = {}
    for objective, runs in grouped(lines).items():
        if {stream, whole} <= {*runs.names} and runs.seeds:
            part, all_of_it = (gains(runs.lines[name], "knn") for name in (stream, whole))
            if (all_of_it >= LEAST_GAIN).all():
                found[objective] = paired(part / all_of_it)
    return found


def tables(lines: Sequence[Line], whole: str) -> str:
    """Return a table for each objective. whole: the stream whose gain the others are compared with."""
    head = ("batches from", *LIKENESS.values(), *(f"gain, {name}" for name in PROBES.values()))
    parts = []
    for objective, runs in grouped(lines).items():
        rows = [_row(lines, objective, runs, name, whole) for name in runs.names]
        against = f"against {whole}, k-NN", f"of {whole}"
        parts += [f"**{objective}**, {len(runs.seeds)} seed(s)", markdown((*head, *against, "CPU-s a run"), rows)]
    return "\n\n".join([*parts, NOTES])


def _row(lines: Sequence[Line], objective: str, runs: SeedRuns, name: str, whole: str) -> list[str]:
    mine = runs.lines[name]
    share = shares(lines, name, whole).get(objective) if name != whole else None
    is_part = whole in runs.names and name != whole
    more = paired(gains(mine, "knn") - gains(runs.lines[whole], "knn")) if is_part else ""
    alike = ([line[key] for line in mine if key in line] for key in LIKENESS)
    means = (f"{np.mean(found):.2f}" if len(found) == len(mine) else "" for found in alike)
    cpu_s = f"{np.mean([line['cpu_s'] for line in mine]):.0f}"
    half = "" if share is None or np.isnan(share.half) else f" ± {100 * share.half:.0f}"
    of_whole = "" if share is None else f"{100 * share.mean:.0f}{half} %"
    return [name, *means, *(str(paired(gains(mine, probe))) for probe in PROBES), str(more), of_whole, cpu_s]


def plot(lines: Sequence[Line], path: Path) -> None:
    """Write a PNG of the k-NN gains: a group for each objective, a bar for each stream, from two seeds on with intervals."""
    groups = grouped(lines)
    streams = list(dict.fromkeys(line["stream"] for line in lines))
    figure = Figure(figsize=(2 + 2.2 * len(groups), 3.6), layout="constrained")
    axis, width = figure.subplots(), 0.8 / len(streams)
    for number, stream in enumerate(streams):
        found = [paired(gains(runs.lines[stream], "knn")) if stream in runs.names else None for runs in groups.values()]
        places = [group + (number - (len(streams) - 1) / 2) * width for group in range(len(groups))]
        halves = [one.half if one and not np.isnan(one.half) else 0.0 for one in found]
        means = [one.mean if one else 0.0 for one in found]
        axis.bar(
            places, means, 0.92 * width, yerr=halves, capsize=2, label=stream, color=COLOURS[number % len(COLOURS)]
        )
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set_ylabel("gain over the random start, k-NN points")
    axis.axhline(0, color="#333333", lw=0.8)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
