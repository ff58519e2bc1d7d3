"""The figures of the retention bench: comparisons paired by seed, as tables and as a plot. Pure.

All policies of a seed share weights, views, order and junk, so they are compared seed by seed: a difference is the mean over
seeds, with the 95 % interval of Student's t. Where the best of many policies is picked by its mean, its p-value is Holm's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.retention.policies import IID, OURS
from benchmarks.shared.paired import Difference, Floats, Line, SeedRuns, by_seed, holm, markdown, paired

REFERENCE = "uniform"


@dataclass(frozen=True)
class Group:
    """The runs of one stream and one share of junk."""

    stream: str
    junk: float
    runs: SeedRuns

    @property
    def title(self) -> str:
        """The stream and its share of junk, as text."""
        return f"{self.stream}, {100 * self.junk:g} % junk"

    @property
    def policies(self) -> list[str]:
        """Names of the policies, in the order in which they first appear among the result lines."""
        return self.runs.names

    def of(self, policy: str, quantity: str) -> Floats:
        """Return a figure of a policy's runs, [seeds]: one of QUANTITIES, or the name of an accuracy at the end of the curve."""
        figure = QUANTITIES[quantity] if quantity in QUANTITIES else _accuracy(quantity)
        return np.array([figure(line) for line in self.runs.lines[policy]])

    def others(self) -> list[str]:
        """Return the names of the k-NN accuracies on further control sets."""
        first = self.runs.lines[self.policies[0]][0]
        return [name for name in first["curve"][-1] if name.endswith(" knn")]

    def against(self, policy: str, other: str, quantity: str = "k-NN") -> Difference:
        """Return the difference between a policy and another one, paired by seed."""
        return paired(self.of(policy, quantity) - self.of(other, quantity))

    def at_equal_time(self, policy: str) -> Floats:
        """Return k-NN [seeds] after the CPU time that the reference needs for its whole run, or at the policy's end."""
        found = []
        for mine, theirs in zip(self.runs.lines[policy], self.runs.lines[REFERENCE], strict=True):
            spent_s = [point["cpu_s"] for point in mine["curve"]]
            curve = [100 * point["knn"] for point in mine["curve"]]
            found.append(float(np.interp(theirs["curve"][-1]["cpu_s"], spent_s, curve)))
        return np.array(found)

    def gap_closed(self, policy: str) -> float:
        """Return the gain over the random start, divided by the gain with the same pairs in shuffled order."""
        start = np.mean([100 * line["curve"][0]["knn"] for line in self.runs.lines[IID]])
        gain, shuffled = (float(self.of(name, "k-NN").mean() - start) for name in (policy, IID))
        return gain / shuffled if shuffled else float("nan")


def _accuracy(name: str) -> Callable[[Line], float]:
    return lambda line: 100 * float(line["curve"][-1][name])


def _area(line: Line) -> float:
    """Return the mean k-NN over the steps of the run, in percent."""
    steps, values = ([point[name] for point in line["curve"]] for name in ("step", "knn"))
    mean = float(np.trapezoid(values, steps)) / float(steps[-1] - steps[0])
    return 100 * mean


def _forgetting(line: Line) -> float:
    """Return by how much k-NN on the first places ends below its best, in percent; nan if the stream has no such labels."""
    curve = [100 * point.get("first_knn", np.nan) for point in line["curve"]]
    return float(np.max(curve) - curve[-1])


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
    """Group the result lines by stream and share of junk, in the order in which they appear.

    Only seeds that have a line of every policy are used.
    """
    found = []
    for stream, junk in dict.fromkeys((line["stream"], line["junk"]) for line in lines):
        runs = by_seed([line for line in lines if (line["stream"], line["junk"]) == (stream, junk)], "policy")
        if runs.seeds:
            found.append(Group(stream, junk, runs))
    return found


def tables(lines: Sequence[Line]) -> str:
    """Return Markdown: a table for each stream and share of junk, then comparisons in words."""
    found = groups(lines)
    sentences = [f"- {text}" for text in _comparisons(found)]
    return "\n\n".join([*map(_table, found), *(["## Comparisons", "\n".join(sentences)] if sentences else [])])


_COLUMNS = (
    *("policy", "k-NN", "less uniform", "p", "linear", "less uniform", "k-NN over the run", "k-NN at equal time"),
    *("forgetting", "junk replayed / stream", "entropy of places", "CPU time / uniform"),
)


def _table(group: Group) -> str:
    start = [line["curve"][0] for line in group.runs.lines[group.policies[0]]]
    knn, linear = (100 * float(np.mean([point[name] for point in start])) for name in ("knn", "linear"))
    others = (word for name in group.others() for word in (name.replace(" knn", " k-NN"), "less uniform"))
    table = markdown([*_COLUMNS, *others], [_row(group, policy) for policy in group.policies])
    head = f"## {group.title}, {len(group.runs.seeds)} seeds\n\nRandom start: k-NN {knn:.1f}, linear {linear:.1f}."
    return f"{head}\n\n{table}"


def _row(group: Group, policy: str) -> list[str]:
    has_reference = REFERENCE in group.policies
    compared = has_reference and policy != REFERENCE

    def mean(quantity: str, form: str = ".1f") -> str:
        value = float(group.of(policy, quantity).mean())
        return "" if np.isnan(value) else format(value, form)

    def difference(quantity: str) -> str:
        return str(group.against(policy, REFERENCE, quantity)) if compared else ""

    return [
        *(policy, mean("k-NN"), difference("k-NN")),
        f"{group.against(policy, REFERENCE).p:.2f}" if compared else "",
        *(mean("linear"), difference("linear"), mean("area")),
        f"{group.at_equal_time(policy).mean():.1f}" if has_reference else "",
        *(mean("forgetting"), mean("junk replayed", ".2f"), mean("entropy", ".2f")),
        _time_ratio(group, policy) if compared else "",
        *(word for name in group.others() for word in (mean(name), difference(name))),
    ]


def _time_ratio(group: Group, policy: str) -> str:
    """Return the CPU time as a share of the reference's; empty if a run was too short to be measured."""
    spent_s, reference_s = group.of(policy, "CPU"), group.of(REFERENCE, "CPU")
    return f"{np.median(spent_s / reference_s):.2f}" if reference_s.all() else ""


def _comparisons(found: Sequence[Group]) -> Iterator[str]:
    """Yield sentences about the best and the worst policies, all shares of junk together, and the effect of junk."""
    for group in found:
        ours = [policy for policy in group.policies if policy in OURS]
        if ours and REFERENCE in group.policies:
            yield _best_and_worst(group, ours)
    for stream in dict.fromkeys(group.stream for group in found):
        mine = [group for group in found if group.stream == stream]
        same_seeds = len({group.runs.seeds for group in mine}) == 1
        if len(mine) > 1 and same_seeds and all(REFERENCE in group.policies for group in mine):
            yield _together(mine)
    for clean, group in product(found, repeat=2):
        of_one_stream = (group.stream, group.runs.seeds) == (clean.stream, clean.runs.seeds)
        if of_one_stream and group.junk > 0 == clean.junk:
            yield _robustness(group, clean)


def _together(mine: Sequence[Group]) -> str:
    """Describe the differences from `uniform`, where each seed counts with its mean over the shares of junk.

    There are fewer numbers then, but each is more certain.
    """
    rows = [
        f"`{policy}` {_mean_difference(mine, policy, 'k-NN')}, {_mean_difference(mine, policy, 'linear')}"
        for policy in mine[0].policies
        if policy != REFERENCE and all(policy in group.policies for group in mine)
    ]
    return f"{mine[0].stream}, all shares of junk together, less uniform (k-NN, linear): " + "; ".join(rows) + "."


def _mean_difference(mine: Sequence[Group], policy: str, quantity: str) -> Difference:
    return paired(np.mean([group.of(policy, quantity) - group.of(REFERENCE, quantity) for group in mine], axis=0))


def _best_and_worst(group: Group, ours: Sequence[str]) -> str:
    rivals = [policy for policy in ("fifo", REFERENCE) if policy in group.policies]
    means = {policy: float(group.of(policy, "k-NN").mean()) for policy in (*ours, *rivals)}
    best, rival = max(ours, key=means.__getitem__), max(rivals, key=means.__getitem__)
    worst = min(ours, key=means.__getitem__)
    adjusted = holm({policy: group.against(policy, rival).p for policy in ours})[best]
    gap = ""
    if IID in group.policies:
        closed = (group.gap_closed(policy) for policy in (best, REFERENCE))
        gap = "; of the gain in shuffled order, `{}` has {:.2f}, uniform {:.2f}".format(best, *closed)
    return (
        f"{group.title}: best of ours `{best}`, {group.against(best, rival)} k-NN against the "
        f"better of fifo and uniform (`{rival}`), p {adjusted:.2f} for the best of {len(ours)} (Holm); worst of ours `{worst}`, "
        f"{group.against(worst, REFERENCE)} against uniform{gap}."
    )


def _robustness(group: Group, clean: Group) -> str:
    rows = []
    for policy in (REFERENCE, *(policy for policy in group.policies if policy in OURS)):
        if policy in group.policies and policy in clean.policies:
            fall = paired(group.of(policy, "k-NN") - clean.of(policy, "k-NN"))
            rows.append(f"`{policy}` {group.of(policy, 'junk replayed').mean():.2f} x, k-NN {fall}")
    return f"{group.title} against none (replayed / stream, change of k-NN): {'; '.join(rows)}."


def plot(lines: Sequence[Line], path: Path) -> None:
    """Write a PNG of the differences from uniform with their intervals; nothing where uniform was not run."""
    found = [group for group in groups(lines) if REFERENCE in group.policies]
    if not found:
        return
    tall = 1.2 + 0.24 * max(len(group.policies) for group in found)
    figure = Figure(figsize=(3.4 + 2.9 * len(found), tall), layout="constrained")
    axes = figure.subplots(1, len(found), sharex=True, sharey=True, squeeze=False)[0]
    for axis, group in zip(axes, found, strict=True):
        policies = [policy for policy in group.policies if policy != REFERENCE][::-1]
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
        axis.set_title(group.title, fontsize=10)
        axis.grid(axis="x", color="#dddddd", lw=0.6)
        axis.set_axisbelow(True)
    axes[0].legend(fontsize=8, loc="lower left")
    figure.supxlabel(f"points above uniform, mean of {len(found[0].runs.seeds)} seeds with 95 % interval", fontsize=9)
    figure.savefig(path, dpi=130)
