"""Benches of many independent runs. The result of each run is a line of a file, and runs that are in the file are not repeated.

So a stopped bench continues where it was, and a larger grid reuses the results of a smaller one.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from benchmarks.shared.bench import BenchSettings, report_progress, time_left
from benchmarks.shared.bounds import Count, Folder, Within
from learner.config import LearnerConfig, to_plain
from learner.errors import Failed
from learner.objectives.contract import ObjectiveConfig
from learner.objectives.sums import parts_of

Seeds = Annotated[tuple[int, ...], Within(0)]
Result = dict[str, Any]
"""A result: the fields of its run, then the measured figures."""
Key = TypeVar("Key")
"""One run: a frozen dataclass of words and numbers, by which its result line is found."""
Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class GridSettings(BenchSettings):
    """The settings of benches that train many times."""

    textures: Annotated[Path | None, Folder()] = None
    """A folder of photographs to hang into the simulated worlds; without it they have procedural pictures."""
    jobs: Count = 1
    """Number of runs at the same time; on a CPU each uses one thread."""
    seeds: Seeds = (0, 1, 2)
    """Seeds of world, walk, weights and views."""

    @property
    def textures_named(self) -> str:
        """The folder of photographs as a result line has it; empty without one."""
        return "" if self.textures is None else str(self.textures)


def completed(
    keys: Sequence[Key],
    path: Path,
    run: Callable[[Key], Result],
    *,
    jobs: int = 1,
    describe: Callable[[Result], str] = str,
    later: Collection[str] = (),
) -> list[Result]:
    """Return the result lines of all runs, in their order; those that `path` lacks are run first and appended to it.

    run: returns what a line has beside the fields of its run; with several `jobs` it is pickled. describe: returns a run in a few
    words, for progress. later: fields of a run that lines of earlier versions lack; such a line counts whatever they are.
    """
    known = _read(path, keys, later)
    missing = [key for key in keys if key not in known]
    if known:
        report_progress(f"{len(known)} of {len(keys)} runs are in {path} already")
    path.parent.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    for done, (key, measured) in enumerate(in_processes(run, missing, jobs), 1):
        line = known[key] = vars(key) | measured
        _append(path, json.dumps(line))
        report_progress(f"{done}/{len(missing)}  {describe(line)}{time_left(started_s, done, len(missing))}")
    return [known[key] for key in keys]


_LATER = ("mean", "std")
"""Settings of the encoder that came after results were published."""


def fingerprint(config: LearnerConfig) -> str:
    """Return 12 hex digits of all settings that decide the weights, so that runs are repeated once a preset has changed.

    With an objective of somebody else its source counts too: it changes from one try to the next.
    """
    plain: dict[str, Any] = to_plain(config)
    if foreign := _sources(config.objective):
        plain["sources"] = foreign
    for name in _LATER:  # unset they decide nothing, and the lines of before keep their fingerprints
        if plain["encoder"][name] is None:
            del plain["encoder"][name]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def _sources(objective: ObjectiveConfig) -> list[str]:
    """Return the source of each module that is not ours and has an objective, or one of a sum."""
    modules = {kind.__module__ for part in parts_of(objective) for kind in (type(part), part.objective)}
    return [inspect.getsource(sys.modules[name]) for name in sorted(modules) if not name.startswith("learner.")]


def write_report(path: Path | None, text: str) -> None:
    """Write a Markdown file, and make its folder. Do nothing if the path is None."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def rendered(report: Path | None, title: str, text: str, plot: Callable[[Path], object]) -> list[str]:
    """Return what a bench shows; with a report, write it there too, below its title, and plot beside it (.md and .png)."""
    if report is not None:
        write_report(report.with_suffix(".md"), f"{title}\n\n{text}")
        plot(report.with_suffix(".png"))
    return [f"{text}\n"]


def _read(path: Path, keys: Sequence[Key], later: Collection[str]) -> dict[Key, Result]:
    """Return the results of these runs that are in the file.

    A last line that was cut off because the bench was stopped is ignored.
    """
    wanted = {key: json.loads(json.dumps(vars(key))) for key in keys}
    known = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        for key, fields in wanted.items() if isinstance(line, dict) else ():
            if all(line.get(name, value if name in later else None) == value for name, value in fields.items()):
                known[key] = line
    return known


def _append(path: Path, text: str) -> None:
    """Append a line to the file. If the last line of the file is incomplete, a new line begins first."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            text = text if file.read() == b"\n" else "\n" + text
        file.write(text.encode() + b"\n")


def in_processes(run: Callable[[Item], Found], items: Sequence[Item], jobs: int) -> Generator[tuple[Item, Found]]:
    """Run each item, `jobs` at a time in processes of their own, and yield each result when its run ends.

    If a run fails, those that have not begun are left out, and those that have are finished. If the caller stops or is
    interrupted, those that have begun are killed.
    """
    if jobs == 1:
        yield from ((item, run(item)) for item in items)
        return
    context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        submitted = {pool.submit(run, item): item for item in items}
        try:
            for future in as_completed(submitted):
                if future.exception():
                    break
                yield submitted.pop(future), future.result()
            begun = [future for future in submitted if not future.cancel()]
            for future in as_completed(begun):
                if not future.exception():
                    yield submitted.pop(future), future.result()
            for future in begun:
                future.result()
        except (KeyboardInterrupt, GeneratorExit):
            # A shutdown alone would wait for all: a worker whose run is interrupted takes the next one. Nor may futures be
            # cancelled here: the executor of Python 3.11 stumbles over that when its processes are gone.
            for child in set(multiprocessing.active_children()) - others:
                child.kill()
            raise
        except BrokenProcessPool as error:
            raise Failed(
                "the process of a run was killed, perhaps because memory was full: try fewer --jobs"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
