"""`python -m learner runs [FOLDER ...]` lists the runs in a folder: how far each is, how good, and which are at work."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from learner.errors import SettingsError
from learner.runs.reading import Line, flat, is_number, read_lines, read_object
from stream.host.command import Command
from stream.host.printing import printable
from stream.host.program import Result, Stop

MAX_DEPTH = 3
"""A run may be so many folders below the one that is given."""
DESCRIPTION = """List the runs in a folder, newest first: step, pairs, objective, last accuracies, and which are at work.

  python -m learner runs                      those in runs/
  python -m learner runs /srv/runs --json"""


@dataclass(frozen=True, kw_only=True)
class RunsSettings:
    """List runs."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = (Path("runs"),)
    """Folders that hold run directories, or are some."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A run. changed_s: when it last wrote a step or a probe, seconds since 1970. knn: last k-NN accuracies, by control set."""

    run: str
    at_work: bool
    step: int
    pairs: int
    objective: str
    seed: int | None
    knn: dict[str, float]
    changed_s: float


def run(settings: RunsSettings, stop: Stop) -> Result:
    """List the runs. Raises SettingsError for a folder that is none."""
    for folder in settings.folders:
        if not folder.is_dir():
            raise SettingsError(f"{folder} is no folder: give the one that holds the runs")
    found = [described(path) for folder in settings.folders for path in sorted(_runs_in(folder, MAX_DEPTH))]
    found.sort(key=lambda one: -one.changed_s)
    lines = [_line(one) for one in found] or [f"no run in {', '.join(map(str, settings.folders))}"]
    return Result("\n".join(lines), [asdict(one) for one in found])


def described(path: Path) -> Listed:
    """Return what the files of a run directory say; what is missing or damaged is left out."""
    settings = dict(flat(read_object(path / "config.json") or {}))
    steps, probes = read_lines(path / "steps.jsonl") or [], read_lines(path / "probes.jsonl") or []
    last: Line = steps[-1] if steps else read_object(path / "summary.json") or {}
    seed = settings.get("seed")
    return Listed(
        str(path),
        _is_locked(path),
        _whole(last.get("step", last.get("steps"))),
        _whole(last.get("received", last.get("pairs_received"))),
        str(settings.get("objective.name", "?")),
        seed if isinstance(seed, int) else None,
        {str(one.get("set")): one["knn"] for one in probes if _is_student(one)},
        max(
            (file.stat().st_mtime for name in ("steps", "probes") if (file := path / f"{name}.jsonl").is_file()),
            default=0.0,
        ),
    )


def _is_student(probe: Line) -> bool:
    return probe.get("encoder") == "student" and is_number(probe.get("knn"))


def _runs_in(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "config.json").is_file():
        yield folder
    elif depth:
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink() and os.access(path, os.R_OK | os.X_OK):
                yield from _runs_in(path, depth - 1)


def _is_locked(path: Path) -> bool:
    """Return whether a learner has the run: it then holds a lock on the folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _whole(value: Any) -> int:
    return int(value) if is_number(value) else 0


def _line(one: Listed) -> str:
    when = f"{datetime.fromtimestamp(one.changed_s).astimezone():%Y-%m-%d %H:%M}" if one.changed_s else "never"
    state = "at work" if one.at_work else f"last step {when}"
    knn = "".join(f"  {name} k-NN {100 * value:.1f} %" for name, value in one.knn.items())
    seed = "" if one.seed is None else f", seed {one.seed}"
    return printable(f"{one.run}  step {one.step}, {one.pairs} pairs, {one.objective}{seed}, {state}{knn}")


COMMAND = Command(run=run, settings=RunsSettings, description=DESCRIPTION)
