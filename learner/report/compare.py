"""Several runs in one HTML file and one CSV: settings, figures and probes side by side, and curves in common figures.

Runs that differ in nothing but the seed have one colour, and their mean is shown with its 95 % interval, or
the range of two.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from learner.errors import LearnerError
from learner.report.compared import AXES, MIN_SEEDS, ComparedRun, Group, groups_of, mean_curve, mean_of, read, unlike
from learner.report.figures import MAX_RUNS, evenly, run_curves
from learner.report.html import axis_choice, grid, legend, missing, number, page, percent, section, table
from learner.runs.reading import Line, Points, is_number, points
from learner.runs.titles import ACCURACIES, FIGURES, curve_names, curve_title
from stream.fsync import replace_file

MAX_CSV_LINES = 1000
"""Steps of a run in the CSV, evenly spread."""
NO_INTERVAL = "\N{EN DASH}"


def write_comparison(folders: Sequence[Path], path: Path) -> tuple[Path, Path]:
    """Compare the runs in these folders in the file `path`, with their numbers in a CSV beside it; return both.

    Raises LearnerError if that is not possible.
    """
    runs = [read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    groups = groups_of(runs)
    if len(groups) > MAX_RUNS:
        raise LearnerError(f"one figure can show at most {MAX_RUNS} kinds of runs, got {len(groups)}: compare fewer")
    colours, band = _legend(groups), _band(groups)
    sections = [
        section("The runs", "Each kind of runs has its colour on this page.", colours + _notes(runs)),
        section("Figures", "", _figures(runs)),
        section(
            "Settings that differ", "All other settings in config.json are the same in every run.", _settings(runs)
        ),
        section(
            "Probes side by side",
            "Accuracy in percent: start → last. Seeds alone make a difference: compare several of each kind. A mean of "
            "seeds has its 95 % interval, by Student's t.",
            _probe_table(runs, groups),
        ),
        section(
            "Probes over time", colours + band, axis_choice("probes", {AXES[a]: _probe_curves(groups, a) for a in AXES})
        ),
        section(
            "Training",
            colours + band + " Losses of different objectives cannot be compared.",
            axis_choice("training", {AXES[a]: _curves(groups, a) for a in AXES}),
        ),
    ]
    replace_file(path, page("Runs compared", sections).encode())
    numbers = path.with_suffix(".csv")
    replace_file(numbers, _csv(groups).encode())
    return path, numbers


def _notes(runs: Sequence[ComparedRun]) -> str:
    return "".join(map(missing, unlike(runs))) + _missing_files(runs)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the names of the folders, with as much of their paths as distinguishes them."""
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise LearnerError("the same run is given twice: give each run once")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _legend(groups: Sequence[Group]) -> str:
    return "".join(legend(group.name, f"run{index}") for index, group in enumerate(groups))


def _band(groups: Sequence[Group]) -> str:
    """Return what the band around a mean is; empty if every kind has one run."""
    counts = {len(group.runs) for group in groups if len(group.runs) > 1}
    interval = (
        " The band around a mean is its 95 % interval, by Student's t." if max(counts, default=0) >= MIN_SEEDS else ""
    )
    if not counts or min(counts) >= MIN_SEEDS:
        return interval
    return f"{interval} Of two seeds it is their range: an interval from two values (12.7 standard errors) would cover all."


def _missing_files(runs: Sequence[ComparedRun]) -> str:
    files = {"summary.json": "summary", "config.json": "settings", "steps.jsonl": "steps", "probes.jsonl": "probes"}
    return "".join(
        missing(f"{run.name}: {file} is missing, empty or damaged.")
        for run in runs
        for file, part in files.items()
        if not getattr(run, part)
    )


def _figures(runs: Sequence[ComparedRun]) -> str:
    figures = FIGURES | {"seconds": "seconds", "loss_first": "first loss", "loss_last": "last loss"}
    rows = [[text, *(number((run.summary or {}).get(key)) for run in runs)] for key, text in figures.items()]
    return table(["", *(run.name for run in runs)], rows)


def _settings(runs: Sequence[ComparedRun]) -> str:
    known = [run for run in runs if run.settings]
    names = list(dict.fromkeys(name for run in known for name in run.settings))
    rows = [
        [name, *(str(run.settings.get(name, "\N{EN DASH}")) for run in runs)]
        for name in names
        if len({str(run.settings.get(name)) for run in known}) > 1
    ]
    if not rows:
        return missing("No setting differs, or the settings of too few runs can be read.")
    return table(["setting", *(run.name for run in runs)], rows)


def _probe_table(runs: Sequence[ComparedRun], groups: Sequence[Group]) -> str:
    several = [group for group in groups if len(group.runs) > 1]
    rows = [
        [
            f"{control}, {encoder}, {title}",
            *(_change(run.probes.get((control, encoder), []), kind) for run in runs),
            *(_mean_change(group, (control, encoder), kind) for group in several),
        ]
        for control, encoder in _columns(runs)
        for kind, title in ACCURACIES.items()
    ]
    head = ["probe", *(run.name for run in runs), *(f"mean of {group.name}" for group in several)]
    return table(head, rows) if rows else missing("No control set was probed.")


def _mean_change(group: Group, column: tuple[str, str], kind: str) -> str:
    """Return the mean last accuracy of the runs, and the mean gain, each with its interval."""
    ends = [_ends(run.probes.get(column, []), kind) for run in group.runs]
    known = [(first, last) for first, last in (pair for pair in ends if pair is not None)]
    if len(known) < 2:
        return NO_INTERVAL
    last, last_error = mean_of([last for _, last in known])
    gain, gain_error = mean_of([last - first for first, last in known])
    return f"{percent(last)} ± {percent(last_error)} ({100 * gain:+.1f} ± {percent(gain_error)})"


def _columns(runs: Sequence[ComparedRun]) -> list[tuple[str, str]]:
    """Return the control sets and encoders of all runs."""
    return list(dict.fromkeys(column for run in runs for column in run.probes))


def _change(lines: Sequence[Line], kind: str) -> str:
    values = [line[kind] for line in lines if is_number(line.get(kind))]
    if len(values) < 2:
        return percent(values[0]) if values else NO_INTERVAL
    return f"{percent(values[0])} → {percent(values[-1])} ({100 * (values[-1] - values[0]):+.1f})"


def _ends(lines: Sequence[Line], kind: str) -> tuple[float, float] | None:
    values = [line[kind] for line in lines if is_number(line.get(kind))]
    return (values[0], values[-1]) if values else None


def _probe_curves(groups: Sequence[Group], axis: str) -> str:
    figures: list[str] = []
    for column in _columns([run for group in groups for run in group.runs]):
        for kind, title in ACCURACIES.items():
            words = f"{column[0]}, {column[1]}: {title}, %"
            points_of = partial(ComparedRun.probe_points, column=column, kind=kind, axis=axis)
            figures += _figure(words, groups, axis, points_of, 100.0)
    return grid(figures) if figures else missing("No probe ran.")


def _curves(groups: Sequence[Group], axis: str) -> str:
    runs = [run for group in groups for run in group.runs]
    there = dict.fromkeys(key for run in runs for line in run.steps[:1] + run.steps[-1:] for key in line)
    units = {name: unit for run in runs for name, unit in ((run.summary or {}).get("units") or {}).items()}
    figures: list[str] = []
    for name in curve_names(there):
        figures += _figure(curve_title(name, units), groups, axis, partial(ComparedRun.points, name=name, axis=axis))
    return grid(figures) if figures else missing("No run took a step.")


def _figure(
    title: str, groups: Sequence[Group], axis: str, points_of: Callable[[ComparedRun], Points], scale: float = 1.0
) -> Iterator[str]:
    """Yield the figure of a quantity in all groups, if any run has it: a line a run, or the mean of several in its interval."""
    lines = [[points_of(run) for run in group.runs] for group in groups]
    if any(len(x) for group in lines for x, _ in group):
        means = [mean_curve(group) if len(group) > 1 else None for group in lines]
        yield run_curves(title, lines, means, scale=scale, xlabel=AXES[axis])


def _csv(groups: Sequence[Group]) -> str:
    """Return a row for each number of a step or a probe: what a spreadsheet or pandas needs to draw the same curves."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["run", "group", "seed", "name", "step", "pairs", "seconds", "value"])
    for group in groups:
        for run in group.runs:
            writer.writerows([run.name, group.name, run.settings.get("seed"), *row] for row in _rows(run))
    return text.getvalue()


def _rows(run: ComparedRun) -> Iterator[tuple[object, ...]]:
    for line in (run.steps[at] for at in evenly(len(run.steps), MAX_CSV_LINES)):
        where = (line.get("step"), line.get("received"), line.get("seconds"))
        yield from ((name, *where, line[name]) for name in curve_names(line) if is_number(line[name]))
    for column, lines in run.probes.items():
        for kind in ACCURACIES:
            pairs = run.probe_points(column, kind, "received")[0]
            values = zip(*points(lines, kind), pairs, strict=True)
            for (step, value, count), line in zip(
                values, (one for one in lines if is_number(one.get(kind))), strict=False
            ):
                yield f"{column[0]}, {column[1]}: {kind}", int(step), int(count), line.get("seconds"), value
