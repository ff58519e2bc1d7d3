"""What does a key cost in a prioritised buffer? Ours against TorchRL's, cpprb's and plain LARS, from 10^4 to 10^7 keys.

Every buffer is full; then keys are offered, drawn and rated anew in batches of 256. The buffers take turns in each round, and
the medians over the rounds are reported: CPU time of this process, on one thread, so that what else the machine does
counts little. Each buffer's memory is measured in a process of its own. The exit code is 0 only where every goal that could
be measured is met.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.buffer.contenders import CONTENDERS, Buffer

BATCH = 256
FILLED_AT_ONCE = 1 << 16
MAX_SIZE = 10**8
BYTES_PER_KEY = 500
"""All contenders together take less while they are filled."""
OPERATIONS = ("offer", "sample", "update")
GOAL_US, GOAL_SIZE, GOAL_FLAT = 5.0, 10**6, 2.0
PEERS = ("torchrl", "cpprb")
Figures = dict[str, dict[str, dict[str, float]]]
"""Microseconds a key by contender, operation and size."""


@dataclass(frozen=True, kw_only=True)
class BufferSettings:
    """Offer, draw and rate keys in full buffers, ours and others'."""

    sizes: tuple[int, ...] = (10**4, 10**5, 10**6, 10**7)
    """Capacities in keys; one that does not fit into memory is left out."""
    rounds: int = 5
    """Rounds in which every buffer takes its turn; the medians are reported."""
    batches: int = 20
    """Batches of each operation in a turn."""
    turn_s: float = 1.0
    """An operation's turn ends early after so many seconds, with at least one batch."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Who is measured."""
    json: bool = False
    """One JSON object; progress and the table go to the standard error either way."""


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns 1 where a goal was missed."""
    settings = tyro.cli(BufferSettings, args=list(arguments), prog="python -m benchmarks buffer")
    _check(settings)
    console = Console(stderr=True, highlight=False)
    left_out = {}
    for name in settings.contenders:
        package = CONTENDERS[name].needs
        if package and importlib.util.find_spec(package) is None:
            left_out[name] = f"{package} is not installed: pip install -e '.[peers]'"
    names = [name for name in settings.contenders if name not in left_out]
    us_per_key: Figures = {name: {operation: {} for operation in OPERATIONS} for name in names}
    bytes_per_key: dict[str, dict[str, float]] = {name: {} for name in names}
    for size in settings.sizes:
        if BYTES_PER_KEY * size > _available_bytes():
            left_out[f"{size} keys"] = f"{BYTES_PER_KEY * size / 1e9:.1f} GB of memory are not free"
            continue
        for name in names:
            bytes_per_key[name][str(size)] = _bytes_per_key(name, size)
        for name, figures in _measure(names, size, settings).items():
            for operation, us in figures.items():
                us_per_key[name][operation][str(size)] = us
        console.print(f"{time.strftime('%H:%M:%S')}  {size} keys: done", soft_wrap=True)
    reached = goals(us_per_key)
    result = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "machine": _machine(),
        "batch": BATCH,
        "rounds": settings.rounds,
        "us_per_key": us_per_key,
        "bytes_per_key": bytes_per_key,
        "goals": reached,
        "left_out": left_out,
    }
    _show(console, result)
    if settings.json:
        sys.stdout.write(json.dumps(result) + "\n")
    return 0 if all(goal["met"] for goal in reached.values()) else 1


def goals(us_per_key: Figures) -> dict[str, dict[str, Any]]:
    """What ours should reach, as far as it was measured: microseconds at 10^6 keys, growth over the sizes, peers."""
    found: dict[str, dict[str, Any]] = {}
    for operation, by_size in us_per_key.get("ours", {}).items():
        at_goal = by_size.get(str(GOAL_SIZE))
        if at_goal is not None:
            found[f"{operation}: microseconds a key at 10^6"] = _goal(at_goal, GOAL_US)
            for peer in PEERS:
                if peer in us_per_key:
                    ratio = at_goal / us_per_key[peer][operation][str(GOAL_SIZE)]
                    found[f"{operation}: of {peer}'s time at 10^6"] = _goal(ratio, 1.0)
        if len(by_size) > 1:
            sizes = sorted(by_size, key=int)
            growth = by_size[sizes[-1]] / by_size[sizes[0]]
            found[f"{operation}: growth from {sizes[0]} to {sizes[-1]} keys"] = _goal(growth, GOAL_FLAT)
    return found


def _goal(reached: float, at_most: float) -> dict[str, Any]:
    return {"reached": round(reached, 2), "at_most": at_most, "met": reached <= at_most}


def _measure(names: Sequence[str], size: int, settings: BufferSettings) -> dict[str, dict[str, float]]:
    """Microseconds a key of each contender and operation, medians over the rounds."""
    turns = {name: _Turn(name, size, settings) for name in names}
    rounds = [{name: turn.take() for name, turn in turns.items()} for _ in range(settings.rounds + 1)]
    return {  # the first round warms up
        name: {what: statistics.median(turn[name][what] for turn in rounds[1:]) for what in OPERATIONS}
        for name in names
    }


class _Turn:
    """A full buffer, and what is done with it again and again."""

    def __init__(self, name: str, size: int, settings: BufferSettings) -> None:
        self._contender, self._settings = CONTENDERS[name], settings
        self._random = np.random.default_rng(size)
        self._buffer = self._contender.make(size)
        self._arrived = _fill(self._buffer, size, self._random)
        self._drawn: list[Any] = []

    def take(self) -> dict[str, float]:
        """Microseconds a key by operation."""
        at_once = self._contender.offered_at_once
        self._drawn.clear()
        return {
            "offer": self._us_per_key(self._offer, at_once, self._settings.batches * BATCH // at_once),
            "sample": self._us_per_key(self._sample, BATCH, self._settings.batches),
            "update": self._us_per_key(self._update, BATCH, len(self._drawn)),
        }

    def _us_per_key(self, work: Callable[[Any], None], keys: int, times: int) -> float:
        phi = self._random.uniform(-2, 2, (times, keys))
        started_s = time.process_time()
        for done in range(times):
            work(phi[done])
            took_s = time.process_time() - started_s
            if took_s > self._settings.turn_s:
                break
        return 1e6 * took_s / keys / (done + 1)

    def _offer(self, phi: Any) -> None:
        self._buffer.offer(np.arange(self._arrived, self._arrived + phi.size), phi)
        self._arrived += phi.size

    def _sample(self, _phi: Any) -> None:
        self._drawn.append(self._buffer.sample(BATCH))

    def _update(self, phi: Any) -> None:
        self._buffer.update(self._drawn.pop(), phi)


def _fill(buffer: Buffer, size: int, random: np.random.Generator) -> int:
    """Offer as many keys as it holds; returns how many."""
    for start in range(0, size, FILLED_AT_ONCE):
        keys = np.arange(start, min(start + FILLED_AT_ONCE, size))
        buffer.offer(keys, random.uniform(-2, 2, keys.size))
    return size


def _bytes_per_key(name: str, size: int) -> float:
    """By how much a fresh process grows when it makes and fills a buffer."""
    context = multiprocessing.get_context("spawn")  # nothing that this process holds
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return round(pool.submit(_growth_bytes, name, size).result() / size, 1)


def _growth_bytes(name: str, size: int) -> int:
    random = np.random.default_rng(0)
    _fill(CONTENDERS[name].make(BATCH), BATCH, random)  # imports, and whatever is made once
    gc.collect()
    before = _resident_bytes()
    buffer = CONTENDERS[name].make(size)
    _fill(buffer, size, random)
    return _resident_bytes() - before


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = ["numpy", *(needs for contender in CONTENDERS.values() if (needs := contender.needs))]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(name) is not None},
    }


def _check(settings: BufferSettings) -> None:
    if not settings.contenders or not set(settings.contenders) <= CONTENDERS.keys():
        raise ValueError(f"--contenders are some of {', '.join(CONTENDERS)}")
    if not settings.sizes or not all(BATCH <= size <= MAX_SIZE for size in settings.sizes):
        raise ValueError(f"--sizes must be at least one number within [{BATCH}, {MAX_SIZE}]")
    if min(settings.rounds, settings.batches) < 1 or not settings.turn_s > 0:
        raise ValueError("--rounds and --batches must be at least 1, --turn-s above 0 seconds")


def _show(console: Console, result: Mapping[str, Any]) -> None:
    title = f"CPU microseconds a key, batches of {BATCH}, median of {result['rounds']} rounds"
    sizes = sorted({size for row in result["bytes_per_key"].values() for size in row}, key=int)
    table = Table("buffer", "operation", *sizes, title=title)
    for name, operations in result["us_per_key"].items():
        for operation, row in operations.items():
            table.add_row(name, operation, *(f"{row[size]:.2f}" for size in sizes))
        table.add_row(name, "bytes a key", *(f"{result['bytes_per_key'][name][size]:.0f}" for size in sizes))
    console.print(table)
    for name, goal in result["goals"].items():
        console.print(f"{'met' if goal['met'] else 'missed':6} {name}: {goal['reached']} of at most {goal['at_most']}")
    for name, why in result["left_out"].items():
        console.print(f"{name}: left out, {why}", soft_wrap=True)
