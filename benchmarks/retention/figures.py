"""What the runs of the retention bench come to: paired comparisons over seeds, as tables and as a plot. Pure.

All policies of a seed share weights, views, order and junk, so they are compared seed by seed: a difference is the mean over
seeds, with the 95 % interval of Student's t. Where one policy of many is picked for its mean, its p-value is Holm's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.retention.policies import IID, OURS
from benchmarks.shared.paired import Difference, holm, paired

Floats = NDArray[np.float64]
Line = Mapping[str, Any]
REFERENCE = "uniform"


@dataclass(frozen=True)
class Group:
    """The runs of one stream and one share of junk; `runs[policy]` in the order of `seeds`, those every policy has."""

    stream: str
    junk: float
    seeds: tuple[int, ...]
    runs: Mapping[str, Sequence[Line]]

    def of(self, policy: str, quantity: str) -> Floats:
        """One figure [seeds] of a policy's runs: one of QUANTITIES, or an accuracy at the end by its name in the curve."""
        figure = QUANTITIES[quantity] if quantity in QUANTITIES else _accuracy(quantity)
        return np.array([figure(line) for line in self.runs[policy]])

    def others(self) -> list[str]:
        """The further control sets' k-NN, by their names in the curve."""
        first = next(iter(self.runs.values()))[0]
        return [name for name in first["curve"][-1] if name.endswith(" knn")]

    def against(self, policy: str, other: str, quantity: str = "k-NN") -> Difference:
        """The policy less the other, paired by seed."""
        return paired(self.of(policy, quantity) - self.of(other, quantity))

    def at_equal_time(self, policy: str) -> Floats:
        """k-NN [seeds] when the policy had used as much CPU time as the reference uses in the whole run, or at its end."""
        found = []
        for mine, theirs in zip(self.runs[policy], self.runs[REFERENCE], strict=True):
            spent_s = [point["cpu_s"] for point in mine["curve"]]
            curve = [100 * point["knn"] for point in mine["curve"]]
            found.append(float(np.interp(theirs["curve"][-1]["cpu_s"], spent_s, curve)))
        return np.array(found)

    def gap_closed(self, policy: str, quantity: str = "k-NN") -> float:
        """Gain over the random start as a share of what the same pairs gain in shuffled order."""
        start = np.mean([100 * line["curve"][0][_KEYS[quantity]] for line in self.runs[IID]])
        gains = [float(self.of(name, quantity).mean() - start) for name in (policy, IID)]
        return gains[0] / gains[1]


def _accuracy(name: str) -> Callable[[Line], float]:
    return lambda line: 100 * float(line["curve"][-1][name])


def _area(line: Line) -> float:
    """Mean k-NN over the steps of the run."""
    steps, values = ([point[name] for point in line["curve"]] for name in ("step", "knn"))
    mean = float(np.trapezoid(values, steps)) / float(steps[-1] - steps[0])
    return 100 * mean


def _forgetting(line: Line) -> float:
    """How far k-NN on what came first has fallen from its best; nan where the stream has no such labels."""
    curve = [100 * point.get("first_knn", np.nan) for point in line["curve"]]
    return float(np.max(curve) - curve[-1])


_KEYS = {"k-NN": "knn", "linear": "linear"}
QUANTITIES: dict[str, Callable[[Line], float]] = {
    "k-NN": _accuracy("knn"),
    "linear": _accuracy("linear"),
    "area": _area,
    "forgetting": _forgetting,
    "junk replayed": lambda line: line["junk_replayed"] / line["junk_of_stream"] if line["junk_of_stream"] else np.nan,
    "entropy": lambda line: line["place_entropy"],
    "CPU": lambda line: line["curve"][-1]["cpu_s"],
}


def groups(lines: Sequence[Line]) -> list[Group]:
    """Lines by stream and junk, in the order they first come in."""
    found = []
    for stream, junk in dict.fromkeys((line["stream"], line["junk"]) for line in lines):
        mine = [line for line in lines if (line["stream"], line["junk"]) == (stream, junk)]
        policies = dict.fromkeys(line["policy"] for line in mine)
        of = {(line["policy"], line["seed"]): line for line in mine}
        seeds = sorted({line["seed"] for line in mine if all((policy, line["seed"]) in of for policy in policies)})
        runs = {policy: [of[policy, seed] for seed in seeds] for policy in policies}
        if seeds:
            found.append(Group(stream, junk, tuple(seeds), runs))
    return found


def tables(lines: Sequence[Line]) -> str:
    """Markdown: a table for each stream and share of junk, and what the comparison comes to."""
    found = groups(lines)
    parts = [_table(group) for group in found]
    return "\n\n".join([*parts, *_reached(found)])


_COLUMNS = (
    *("policy", "k-NN", "less uniform", "p", "linear", "less uniform", "k-NN over the run", "k-NN at equal time"),
    *("forgetting", "junk replayed / stream", "entropy of places", "CPU time / uniform"),
)


def _table(group: Group) -> str:
    start = [line["curve"][0] for line in next(iter(group.runs.values()))]
    knn, linear = (100 * float(np.mean([point[name] for point in start])) for name in ("knn", "linear"))
    head = (
        f"## {group.stream}, {100 * group.junk:g} % junk, {len(group.seeds)} seeds\n\n"
        f"Random start: k-NN {knn:.1f}, linear {linear:.1f}."
    )
    columns = [
        *_COLUMNS,
        *(word for name in group.others() for word in (name.replace(" knn", " k-NN"), "less uniform")),
    ]
    rows = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([head, "", *rows, *(_row(group, policy) for policy in group.runs)])


def _row(group: Group, policy: str) -> str:
    cells = [policy]
    compared = REFERENCE in group.runs and policy != REFERENCE
    for quantity in ("k-NN", "linear"):
        difference = group.against(policy, REFERENCE, quantity) if compared else None
        cells += [f"{group.of(policy, quantity).mean():.1f}", str(difference) if difference else ""]
        if quantity == "k-NN":
            cells.append(f"{difference.p:.2f}" if difference else "")
    cells.append(f"{group.of(policy, 'area').mean():.1f}")
    cells.append(f"{group.at_equal_time(policy).mean():.1f}" if REFERENCE in group.runs else "")
    for quantity, form in (("forgetting", ".1f"), ("junk replayed", ".2f"), ("entropy", ".2f")):
        value = float(group.of(policy, quantity).mean())
        cells.append("" if np.isnan(value) else format(value, form))
    ratio = group.of(policy, "CPU") / group.of(REFERENCE, "CPU") if compared else None
    cells.append("" if ratio is None else f"{np.median(ratio):.2f}")
    for name in group.others():
        cells.append(f"{group.of(policy, name).mean():.1f}")
        cells.append(str(group.against(policy, REFERENCE, name)) if compared else "")
    return "| " + " | ".join(cells) + " |"


def _reached(found: Sequence[Group]) -> list[str]:
    """The claims that the bench is asked about, as far as these runs can tell."""
    said = []
    for group in found:
        ours = [policy for policy in group.runs if policy in OURS]
        rivals = [policy for policy in ("fifo", REFERENCE) if policy in group.runs]
        if ours and REFERENCE in rivals:
            said.append(_comparison(group, ours, rivals))
    said += [_together([group for group in found if group.stream == name]) for name in _streams(found)]
    said += [
        _robustness(group, clean) for clean in found if not clean.junk for group in found if _spoiled(group, clean)
    ]
    return ["## What it comes to", "\n".join(f"- {text}" for text in said)] if said else []


def _streams(found: Sequence[Group]) -> list[str]:
    """Those with several shares of junk, each over the same seeds, and the reference in each."""
    streams = dict.fromkeys(group.stream for group in found)
    return [name for name in streams if _comparable([group for group in found if group.stream == name])]


def _comparable(mine: Sequence[Group]) -> bool:
    return (
        len(mine) > 1 and len({group.seeds for group in mine}) == 1 and all(REFERENCE in group.runs for group in mine)
    )


def _together(mine: Sequence[Group]) -> str:
    """Differences from uniform when a seed counts with its mean over the shares of junk: fewer, but surer."""
    rows = []
    for policy in mine[0].runs:
        if policy != REFERENCE and all(policy in group.runs for group in mine):
            over = {name: _mean_difference(mine, policy, name) for name in ("k-NN", "linear")}
            rows.append(f"`{policy}` {over['k-NN']}, {over['linear']}")
    return f"{mine[0].stream}, all shares of junk together, less uniform (k-NN, linear): " + "; ".join(rows) + "."


def _mean_difference(mine: Sequence[Group], policy: str, quantity: str) -> Difference:
    return paired(np.mean([group.of(policy, quantity) - group.of(REFERENCE, quantity) for group in mine], axis=0))


def _spoiled(group: Group, clean: Group) -> bool:
    return group.stream == clean.stream and group.junk > 0 and group.seeds == clean.seeds


def _comparison(group: Group, ours: Sequence[str], rivals: Sequence[str]) -> str:
    means = {policy: float(group.of(policy, "k-NN").mean()) for policy in (*ours, *rivals)}
    best, rival = max(ours, key=means.__getitem__), max(rivals, key=means.__getitem__)
    worst = min(ours, key=means.__getitem__)
    adjusted = holm({policy: group.against(policy, rival).p for policy in ours})[best]
    gap = ""
    if IID in group.runs:
        closed = (group.gap_closed(policy) for policy in (best, REFERENCE))
        gap = "; of the gain in shuffled order, `{}` has {:.2f}, uniform {:.2f}".format(best, *closed)
    return (
        f"{group.stream}, {100 * group.junk:g} % junk: best of ours `{best}`, {group.against(best, rival)} k-NN against the "
        f"better of fifo and uniform (`{rival}`), p {adjusted:.2f} for the best of {len(ours)} (Holm); worst of ours `{worst}`, "
        f"{group.against(worst, REFERENCE)} against uniform{gap}."
    )


def _robustness(group: Group, clean: Group) -> str:
    rows = []
    for policy in (REFERENCE, *(policy for policy in group.runs if policy in OURS)):
        if policy in group.runs and policy in clean.runs:
            fall = paired(group.of(policy, "k-NN") - clean.of(policy, "k-NN"))
            rows.append(f"`{policy}` {group.of(policy, 'junk replayed').mean():.2f} x, k-NN {fall}")
    return (
        f"{group.stream}, {100 * group.junk:g} % junk against none (replayed / stream, change of k-NN): "
        + "; ".join(rows)
        + "."
    )


def plot(lines: Sequence[Line], path: Path) -> None:
    """Differences from uniform with their intervals, and the junk each policy replays: a PNG."""
    found = [group for group in groups(lines) if REFERENCE in group.runs]
    tall = 1.2 + 0.24 * max(len(group.runs) for group in found)
    figure = Figure(figsize=(3.4 + 2.9 * len(found), tall), layout="constrained")
    axes = figure.subplots(1, len(found), sharex=True, sharey=True, squeeze=False)[0]
    for axis, group in zip(axes, found, strict=True):
        policies = [policy for policy in group.runs if policy != REFERENCE][::-1]
        for height, policy in enumerate(policies):
            for quantity, colour, shift in (("k-NN", "#1f6f8b", 0.13), ("linear", "#d08b2c", -0.13)):
                difference = group.against(policy, REFERENCE, quantity)
                half = 0.0 if np.isnan(difference.half) else difference.half
                label = quantity if not height else None
                axis.errorbar(
                    difference.mean, height + shift, xerr=half, fmt="o", ms=4, lw=1.4, color=colour, label=label
                )
        axis.axvline(0, color="#888888", lw=0.8)
        axis.set_yticks(range(len(policies)), policies)
        axis.set_title(f"{group.stream}, {100 * group.junk:g} % junk", fontsize=10)
        axis.grid(axis="x", color="#dddddd", lw=0.6)
        axis.set_axisbelow(True)
    axes[0].legend(fontsize=8, loc="lower left")
    figure.supxlabel(f"points above uniform, mean of {len(found[0].seeds)} seeds with 95 % interval", fontsize=9)
    figure.savefig(path, dpi=130)
