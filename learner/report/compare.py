"""Several runs in one HTML file: different settings, figures and probes side by side, and curves in common figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner import legacy
from learner.errors import LearnerError
from learner.report.figures import MAX_RUNS, run_curves
from learner.report.html import grid, legend, missing, number, page, percent, section, table
from learner.runs.reading import Line, by_encoder, flat, is_number, points, read_lines, read_object
from learner.runs.titles import ACCURACIES, FIGURES, curve_names, curve_title
from stream.fsync import replace_file


@dataclass(frozen=True)
class ComparedRun:
    """The files of a run; None or empty if a file is missing or damaged."""

    name: str
    summary: Line | None
    settings: dict[str, Any]
    steps: list[Line]
    probes: dict[tuple[str, str], list[Line]]
    """The lines of probes, by control set and encoder."""


def write_comparison(folders: Sequence[Path], path: Path) -> Path:
    """Compare the runs in these folders in the file `path`, and return it. Raises LearnerError if that is not possible."""
    if len(folders) > MAX_RUNS:
        raise LearnerError(f"one figure can show at most {MAX_RUNS} runs, got {len(folders)}: compare fewer")
    runs = [_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    sections = [
        section("The runs", "Each run has its colour on this page.", _legend(runs) + _missing_files(runs)),
        section("Figures", "", _figures(runs)),
        section("Settings that differ", "All other settings are the same in every run.", _settings(runs)),
        section(
            "Probes side by side",
            "Accuracy in percent: random start → last. Seeds alone make a difference: compare several runs of each kind.",
            _probe_table(runs),
        ),
        section("Probes over time", _legend(runs), _probe_curves(runs)),
        section("Training", _legend(runs) + " Losses of different objectives cannot be compared.", _curves(runs)),
    ]
    replace_file(path, page("Runs compared", sections).encode())
    return path


def _read(folder: Path, name: str) -> ComparedRun:
    if not folder.is_dir():
        raise LearnerError(f"{folder} is no folder: give run directories")
    return ComparedRun(
        name,
        read_object(folder / "summary.json"),
        dict(flat(legacy.renamed(read_object(folder / "config.json") or {}, legacy.SETTINGS))),
        read_lines(folder / "steps.jsonl") or [],
        by_encoder(read_lines(folder / "probes.jsonl") or []),
    )


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


def _legend(runs: Sequence[ComparedRun]) -> str:
    return "".join(legend(run.name, f"run{index}") for index, run in enumerate(runs))


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


def _probe_table(runs: Sequence[ComparedRun]) -> str:
    rows = [
        [f"{control}, {encoder}, {title}", *(_change(run.probes.get((control, encoder), []), kind) for run in runs)]
        for control, encoder in _columns(runs)
        for kind, title in ACCURACIES.items()
    ]
    return table(["probe", *(run.name for run in runs)], rows) if rows else missing("No control set was probed.")


def _columns(runs: Sequence[ComparedRun]) -> list[tuple[str, str]]:
    """Return the control sets and encoders of all runs."""
    return list(dict.fromkeys(column for run in runs for column in run.probes))


def _change(lines: Sequence[Line], kind: str) -> str:
    values = [line[kind] for line in lines if is_number(line.get(kind))]
    if len(values) < 2:
        return percent(values[0]) if values else "\N{EN DASH}"
    return f"{percent(values[0])} → {percent(values[-1])} ({100 * (values[-1] - values[0]):+.1f})"


def _probe_curves(runs: Sequence[ComparedRun]) -> str:
    figures = []
    for control, encoder in _columns(runs):
        for kind, title in ACCURACIES.items():
            lines = [points(run.probes.get((control, encoder), []), kind) for run in runs]
            if any(len(x) for x, _ in lines):
                figures.append(run_curves(f"{control}, {encoder}: {title}, %", lines, scale=100))
    return grid(figures) if figures else missing("No probe ran.")


def _curves(runs: Sequence[ComparedRun]) -> str:
    there = dict.fromkeys(key for run in runs for line in run.steps[:1] + run.steps[-1:] for key in line)
    units = {name: unit for run in runs for name, unit in ((run.summary or {}).get("units") or {}).items()}
    lines = {name: [points(run.steps, name) for run in runs] for name in curve_names(there)}
    figures = [
        run_curves(curve_title(name, units), drawn) for name, drawn in lines.items() if any(len(x) for x, _ in drawn)
    ]
    return grid(figures) if figures else missing("No run took a step.")
