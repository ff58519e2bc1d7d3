"""The parts that all benches share: settings from the command line, turns, goals, progress, and figures as tables or as JSON.

A bench is its settings, a function that measures, one that renders the figures, and its goals, which decide the exit code.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.console import Console, RenderableType
from rich.table import Column, Table

from benchmarks.shared.bounds import Count, check_bounds
from stream.host import completion
from stream.host.command import hiding_nothing, read
from stream.host.program import ExitCode, Result, Stop, write
from stream.host.progress import Progress

Item = TypeVar("Item")
Settings = TypeVar("Settings", bound="BenchSettings")
Figures = TypeVar("Figures")
PLAIN_COLUMNS = 120
"""Width of tables where there is no terminal."""
_progress = Progress()


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """The settings that every bench has."""

    json: bool = False
    """Write JSON to the standard output; the tables then go to the standard error, as progress always does."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class RoundsSettings(BenchSettings):
    """Settings of the benches that measure in rounds."""

    rounds: Count = 5
    """Rounds in which every row takes its turn; the median is reported."""


@dataclass(frozen=True)
class Goal:
    """A bound for a figure: an upper bound, or a lower one if `at_least` is set. NaN reaches no goal."""

    name: str
    reached: float
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure is within the bound; equality is enough."""
        return self.reached >= self.bound if self.at_least else self.reached <= self.bound

    @property
    def text(self) -> str:
        """The bound with its direction."""
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Bench(Generic[Settings, Figures]):
    """A command of `python -m benchmarks` (see `stream.host.command`), which answers one question."""

    settings: type[Settings]
    measure: Callable[[Settings], Figures]
    render: Callable[[Settings, Figures], Iterable[RenderableType]]
    """Returns tables and text for a person."""
    goals: Callable[[Figures], Iterable[Goal]] = lambda _figures: ()
    json_lines: Callable[[Figures], Iterable[Any]] = lambda figures: [figures]
    """Returns JSON values, one for each line of the output with `--json`."""

    def execute(self, words: Sequence[str], prog: str, _stop: Stop) -> Result:
        """Run the bench and print its figures. The exit code is 1 if a goal is missed. Raises ReportedError."""
        # An exception ends a bench, so that it ends its processes and deletes its files, also in code that does not read `_stop`.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        settings = read(self.settings, hiding_nothing(words), prog)
        figures = self.measure(settings)
        for line in self.json_lines(figures) if settings.json else ():
            write(json.dumps(line))
        goals = list(self.goals(figures))
        stream = sys.stderr if settings.json else sys.stdout
        console = Console(file=stream, highlight=False, width=None if stream.isatty() else PLAIN_COLUMNS)
        for part in (*self.render(settings, figures), *_goal_table(goals)):
            if isinstance(part, str):
                console.file.write(part)
            else:
                console.print(part)
        return Result(code=ExitCode.DONE if all(goal.met for goal in goals) else ExitCode.FAILED)

    def options(self, _name: str) -> completion.Options:
        """Return the flags and choices that the shell completes."""
        return completion.options(self.settings)


def report_progress(text: str) -> None:
    """Write a line of progress, with the time of day, to the standard error."""
    _progress.log(f"{time.strftime('%H:%M:%S')}  {text}")


def counted(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Go through the items and report how many are done and how long the others may take."""
    started_s = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        report_progress(f"{what} {done} of {len(items)}{time_left(started_s, done, len(items))}")


def time_left(started_s: float, done: int, total: int) -> str:
    """Return a text about the time that the rest may take, at the pace since `started_s` (monotonic); empty at the end."""
    left_s = (time.monotonic() - started_s) / done * (total - done)
    return f", about {left_s / 60:.0f} min left" if done < total else ""


def seconds_of(work: Callable[[], object]) -> float:
    """Call a function and return the seconds that it takes."""
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def in_turns(
    rows: Mapping[str, Callable[[], Item]], rounds: int, *, before: Callable[[], object] = lambda: None
) -> dict[str, list[Item]]:
    """Run every row once in each round, so that a machine that slows down slows all of them; return each row's results.

    before: called at the start of each round.
    """
    results: dict[str, list[Item]] = {name: [] for name in rows}
    for _ in counted(range(rounds), "round"):
        before()
        for name, row in rows.items():
            results[name].append(row())
    return results


def medians(results: Mapping[str, Sequence[float]], digits: int | None = None) -> dict[str, float]:
    """Return the median of each row over its rounds, rounded to `digits` digits after the point; None rounds to an integer."""
    return {name: round(statistics.median(found), digits) for name, found in results.items()}


def figure_table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[object]]) -> Table:
    """Return a table whose first column holds the names of the rows and never wraps."""
    others = (Column(name, overflow="fold") for name in columns[1:])  # a number is never cut
    table = Table(Column(columns[0], no_wrap=True), *others, title=title or None)
    for name, cells in rows.items():
        table.add_row(name, *map(str, cells))
    return table


def name_value_table(title: str, figures: Mapping[str, object]) -> Table:
    """Return a table of two columns; a mapping among the values is written into one cell."""
    return figure_table(title, ("figure", "value"), {name: [_cell(value)] for name, value in figures.items()})


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.5g}"
    return ", ".join(f"{name}: {one}" for name, one in value.items()) if isinstance(value, dict) else value


def _goal_table(goals: Sequence[Goal]) -> list[Table]:
    rows = {goal.name: (f"{goal.reached:.4g}", goal.text, "met" if goal.met else "missed") for goal in goals}
    return [figure_table("", ("goal", "reached", "bound", ""), rows)] if rows else []
