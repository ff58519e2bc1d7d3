"""Tables and a plot of what was kept and what was gained. Pure, except that it writes the plot to a file.

R runs, one for each seed; P probes of a run, its first state among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.adapt.run import CONTROL, PLACES, STREAM
from benchmarks.shared.paired import Floats, Line, SeedRuns, by_seed, markdown, paired
from benchmarks.shared.probing import PROBES
from learner.runs.titles import KINDS

TITLES = {CONTROL: "control sets", PLACES: "places", STREAM: "the stream's probe"}
NOTES = """Points above the weights of the start: the mean over seeds, ± half of the 95 % interval (Student's t; none for one
seed). Control sets: the mean over the sets. At worst: the lowest k-NN of all probes after the start. The stream's probe: the mean
of its recalls on held-out pairs, against those of the start on the same pairs. `scratch` began at random and is compared with the
same weights. Rollbacks are those of the guard against forgetting, all seeds together."""
COLOURS = ("#c8553d", "#d08b2c", "#1f6f8b", "#8e5ea2", "#4c9f70", "#666666")


def by_objective(lines: Sequence[Line]) -> dict[str, SeedRuns]:
    """Return the lines of each objective by arm, with the seeds that all its arms have."""
    names = dict.fromkeys(line["objective"] for line in lines)
    return {name: by_seed([line for line in lines if line["objective"] == name], "arm") for name in names}


def above(lines: Sequence[Line], what: str, probe: str = "knn") -> Floats:
    """Return the points above the start, [R, P]; nan where there is no figure. what: CONTROL, PLACES or STREAM."""
    return np.array([[100 * _gain(point, line["start"], what, probe) for point in line["curve"]] for line in lines])


def worst(lines: Sequence[Line]) -> Floats:
    """Return the lowest points of the control sets above the start of all probes after it, [R]."""
    return np.asarray(above(lines, CONTROL)[:, 1:].min(1))


def _gain(point: Line, start: Line, what: str, probe: str) -> float:
    if what == STREAM:
        recalls = [(point[STREAM].get(kind), point[STREAM].get(f"{kind}_start")) for kind in KINDS]
        gains = [now - before for now, before in recalls if now is not None and before is not None]
        return float(np.mean(gains)) if gains else float("nan")
    if what == PLACES:
        return float(point[PLACES][probe] - start[PLACES][probe])
    return float(np.mean([one[probe] - start[CONTROL][name][probe] for name, one in point[CONTROL].items()]))


def tables(lines: Sequence[Line]) -> str:
    """Return a table for each objective, with the figures of the start, and what they are made of."""
    first = lines[0]
    told = f"From {first['weights']} on {first['stream']}, {first['cpu_min']:g} CPU-minutes a run, {first['control']}."
    has_places = PLACES in first["start"]
    head = ["", *(f"control sets, {name}" for name in PROBES.values()), "at worst"]
    head += [*(f"places, {name}" for name in PROBES.values() if has_places), TITLES[STREAM], "rollbacks", "steps"]
    parts = [told]
    for objective, runs in by_objective(lines).items():
        rows = [
            _start_row(runs.lines[runs.names[0]], has_places),
            *(_row(runs.lines[name], name) for name in runs.names),
        ]
        parts += [f"**{objective}**, {len(runs.seeds)} seed(s)", markdown(head, rows)]
    return "\n\n".join([*parts, NOTES])


def _start_row(lines: Sequence[Line], has_places: bool) -> list[str]:
    starts = [line["start"] for line in lines]
    sets = [np.mean([one[probe] for start in starts for one in start[CONTROL].values()]) for probe in PROBES]
    places = [np.mean([start[PLACES][probe] for start in starts]) for probe in PROBES if has_places]
    sets_text, places_text = ([f"{100 * value:.1f} %" for value in values] for values in (sets, places))
    return ["the start itself", *sets_text, "", *places_text, "", "", ""]


def _row(lines: Sequence[Line], name: str) -> list[str]:
    sets = [_with_interval(above(lines, CONTROL, probe)[:, -1]) for probe in PROBES]
    has_places = PLACES in lines[0]["start"]
    places = [_with_interval(above(lines, PLACES, probe)[:, -1]) for probe in PROBES if has_places]
    counts = [f"{sum(line['rollbacks'] for line in lines)}", f"{np.mean([line['steps'] for line in lines]):.0f}"]
    return [name, *sets, _with_interval(worst(lines)), *places, _with_interval(above(lines, STREAM)[:, -1]), *counts]


def _with_interval(values: Floats) -> str:
    if np.isnan(values).any():
        return "too few pairs held out"
    return str(paired(values))


def plot(lines: Sequence[Line], path: Path) -> None:
    """Write a PNG of the curves: panels for each objective, a curve for each arm, from three seeds on with intervals."""
    groups, panels = by_objective(lines), [CONTROL, *([PLACES] if PLACES in lines[0]["start"] else []), STREAM]
    figure = Figure(figsize=(1 + 3.4 * len(panels), 0.8 + 2.8 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), len(panels), squeeze=False, sharex=True)
    for (objective, runs), row in zip(groups.items(), axes, strict=True):
        for what, axis in zip(panels, row, strict=True):
            _curves(axis, runs, what)
            axis.set_title(f"{objective}: {TITLES[what]}", fontsize=10)
        row[0].set_ylabel("points above the start", fontsize=9)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _curves(axis: Axes, runs: SeedRuns, what: str) -> None:
    for number, (name, lines) in enumerate(runs.lines.items()):
        minutes = np.mean([[point["cpu_s"] / 60 for point in line["curve"]] for line in lines], 0)
        found = [paired(values) for values in above(lines, what).T]
        mean, half = (np.array([getattr(one, part) for one in found]) for part in ("mean", "half"))
        colour = COLOURS[number % len(COLOURS)]
        axis.plot(minutes, mean, label=name, color=colour, marker="o", ms=3, lw=1.4)
        if len(runs.seeds) > 2:
            axis.fill_between(minutes, mean - half, mean + half, color=colour, alpha=0.12, lw=0)
    axis.axhline(0, color="#333333", lw=0.8)
    axis.set_xlabel("CPU-minutes", fontsize=9)
    axis.grid(color="#dddddd", lw=0.6)
