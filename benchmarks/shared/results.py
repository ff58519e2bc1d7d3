"""Benches of many independent runs: each run's result is a line of a file, and runs that are in it are not run again.

So a bench that was stopped goes on where it was, and a larger grid keeps what a smaller one has measured.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from learner.config import LearnerConfig, to_plain

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Line = dict[str, Any]
"""A result: the fields of its cell, then what was measured."""
Cell = TypeVar("Cell", bound="DataclassInstance")
"""One run: a frozen dataclass of words and numbers, by which its line is known."""


def completed(
    cells: Sequence[Cell],
    path: Path,
    run: Callable[[Cell], Line],
    *,
    jobs: int = 1,
    tell: Callable[[Line], str] | None = None,
) -> list[Line]:
    """Lines of all cells, in their order; those that `path` does not have are run, `jobs` at a time, and appended to it.

    run: gives what a line has beside the fields of its cell; with several jobs it is pickled. tell: a line in a few words, for
    progress on the standard output; None says nothing.
    """
    known = _read(path, cells)
    missing = [cell for cell in cells if cell not in known]
    path.parent.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    for count, (cell, measured) in enumerate(_measured(run, missing, jobs), 1):
        line = known[cell] = dataclasses.asdict(cell) | measured
        _append(path, json.dumps(line))
        if tell is not None:
            left_s = (time.monotonic() - started_s) / count * (len(missing) - count)
            say(f"{count}/{len(missing)}  {left_s / 60:.0f} min left  {tell(line)}")
    return [known[cell] for cell in cells]


def fingerprint(config: LearnerConfig) -> str:
    """12 hex digits of all settings that decide the weights: a cell that has it is run again where a preset has changed."""
    return hashlib.sha256(json.dumps(to_plain(config), sort_keys=True).encode()).hexdigest()[:12]


def say(text: str) -> None:
    """A line of progress."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
    sys.stdout.flush()


def _read(path: Path, cells: Sequence[Cell]) -> dict[Cell, Line]:
    """What is there of the cells; a line that a stop cut short is none."""
    wanted = {_identity(dataclasses.asdict(cell)): cell for cell in cells}
    names = [field.name for field in dataclasses.fields(cells[0])] if cells else []
    known = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        cell = wanted.get(_identity({name: line.get(name) for name in names})) if isinstance(line, dict) else None
        if cell is not None:
            known[cell] = line
    return known


def _append(path: Path, text: str) -> None:
    """As a line of its own, also after one that was cut short."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            text = text if file.read() == b"\n" else "\n" + text
        file.write(text.encode() + b"\n")


def _identity(fields: Line) -> str:
    return json.dumps(fields, sort_keys=True)


def _measured(run: Callable[[Cell], Line], cells: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, Line]]:
    """In the order in which they end."""
    if jobs == 1:
        yield from ((cell, run(cell)) for cell in cells)
        return
    context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        running = {pool.submit(run, cell): cell for cell in cells}
        for future in as_completed(running):
            yield running[future], future.result()
