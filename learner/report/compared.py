"""Runs as a comparison sees them: their files, which of them differ in nothing but the seed, and the mean of those."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from learner import legacy
from learner.errors import LearnerError
from learner.runs.reading import Line, Points, by_encoder, flat, is_number, points, read_lines, read_object

AXES = {"step": "steps", "received": "pairs received", "seconds": "seconds"}
"""What a curve may be drawn over: keys of a line of steps, and their titles."""
LENGTH_SHARE = 0.05
"""Runs whose lengths are further apart, as a share of the longer one, differ in length."""
MIN_SEEDS = 3
"""From so many seeds on a curve has an interval; that of two is 12.7 standard errors wide, and would cover every other curve."""
GRID = 100
"""Places at which the mean of several runs is computed."""


@dataclass(frozen=True)
class ComparedRun:
    """The files of a run; None or empty if a file is missing or damaged."""

    name: str
    summary: Line | None
    settings: dict[str, Any]
    steps: list[Line]
    probes: dict[tuple[str, str], list[Line]]
    """The lines of probes, by control set and encoder."""

    def figure(self, name: str) -> float | None:
        """Return a number of the summary, if there is one."""
        value = (self.summary or {}).get(name)
        return value if is_number(value) else None

    @property
    def streams(self) -> tuple[str, ...] | None:
        """The devices and epochs that it learned from; None where this is not known: a run of 0.1, or one at work."""
        found = (self.summary or {}).get("streams")
        return tuple(map(str, found)) if isinstance(found, list) else None

    def points(self, name: str, axis: str) -> Points:
        """Return a number of the steps over an axis."""
        return points(self.steps, name, axis)

    def probe_points(self, column: tuple[str, str], kind: str, axis: str) -> Points:
        """Return an accuracy over an axis. A line of a probe has no count of pairs: that of its step is taken."""
        steps, values = points(self.probes.get(column, []), kind)
        if axis == "step":
            return steps, values
        if axis == "seconds":
            return points(self.probes.get(column, []), kind, "seconds")
        known, pairs = points(self.steps, "received")
        return np.interp(steps, [0.0, *known], [0.0, *pairs]), values


def read(folder: Path, name: str) -> ComparedRun:
    """Read the files of a run. Raises LearnerError if there is no folder."""
    if not folder.is_dir():
        raise LearnerError(f"{folder} is no folder: give run directories")
    return ComparedRun(
        name,
        read_object(folder / "summary.json"),
        dict(flat(legacy.renamed(read_object(folder / "config.json") or {}, legacy.SETTINGS))),
        read_lines(folder / "steps.jsonl") or [],
        by_encoder(read_lines(folder / "probes.jsonl") or []),
    )


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed: one colour, and one mean."""

    runs: tuple[ComparedRun, ...]

    @property
    def name(self) -> str:
        """The name of its only run, or of the first one with the number of seeds."""
        first, more = self.runs[0].name, len(self.runs) - 1
        return f"{first} and {more} more seed{'s' * (more > 1)}" if more else first


def groups_of(runs: Sequence[ComparedRun]) -> list[Group]:
    """Return the runs in groups; a run whose settings are not known is alone.

    Runs with the same seed are in groups of their own: they repeat each other, or learned from different recordings.
    """
    found: dict[object, list[ComparedRun]] = {}
    before: Counter[object] = Counter()
    for number, run in enumerate(runs):
        same = tuple(sorted((key, repr(value)) for key, value in run.settings.items() if key != "seed"))
        of_seed = same, repr(run.settings.get("seed"))
        found.setdefault((same, before[of_seed]) if same else number, []).append(run)
        before[of_seed] += 1
    return [Group(tuple(members)) for members in found.values()]


def mean_of(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half of its 95 % interval, by Student's t; nan for the latter of fewer than two values."""
    count = len(values)
    if count < 2:
        return (float(np.mean(values)) if count else math.nan), math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    return float(np.mean(values)), float(stats.t.ppf(0.975, count - 1)) * error


def mean_curve(lines: Sequence[Points]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return x, mean and half of the 95 % interval where all lines are there, between their points along straight lines.

    Of fewer lines than MIN_SEEDS, half of their range stands in place of that of the interval.
    """
    lines = [(x, y) for x, y in lines if len(x)]
    low, high = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    if len(lines) < 2 or high < low:
        return (np.empty(0),) * 3
    places = np.linspace(low, high, GRID if high > low else 1)
    values = np.stack([np.interp(places, x, y) for x, y in lines])
    if len(lines) < MIN_SEEDS:
        return places, values.mean(0), np.ptp(values, axis=0) / 2
    error = values.std(0, ddof=1) / math.sqrt(len(lines))
    return places, values.mean(0), stats.t.ppf(0.975, len(lines) - 1) * error


def unlike(runs: Sequence[ComparedRun]) -> Iterator[str]:
    """Yield a sentence for each thing that makes the last values of the runs hard to compare: lengths, recordings, probes."""
    for name, words in (("steps", "steps"), ("pairs_received", "pairs received")):
        lengths = {run.name: value for run in runs if (value := run.figure(name)) is not None}
        if len(lengths) > 1 and min(lengths.values()) < (1 - LENGTH_SHARE) * max(lengths.values()):
            yield f"The runs differ in length ({words}: {_list(lengths)}): compare their curves, not their last values."
    streams = {run.name: run.streams for run in runs if run.streams is not None}
    if len(set(streams.values())) > 1:
        yield f"The runs learned from different recordings or walks: {_list({k: ' '.join(v) for k, v in streams.items()})}."
    sets = {run.name: ", ".join(dict.fromkeys(name for name, _ in run.probes)) for run in runs if run.probes}
    if len(set(sets.values())) > 1:
        yield f"The runs have different control sets: {_list(sets)}."


def _list(values: Mapping[str, object]) -> str:
    return "; ".join(f"{name}: {value:g}" if is_number(value) else f"{name}: {value}" for name, value in values.items())
