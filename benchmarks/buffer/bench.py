"""What does a key cost in a prioritised buffer? Ours against TorchRL's, cpprb's and plain LARS, from 10^4 to 10^7 keys.

Every buffer is filled. Then keys are offered, drawn and given new priorities in batches of 256. The buffers take turns in each
round, and the medians over the rounds are reported: CPU time of this process, on one thread, so that other load on the machine
counts little. Each buffer's memory is measured in a process of its own. The exit code is 0 only if every goal that could be
measured is met.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Annotated, Any

import numpy as np
from rich.console import RenderableType

from benchmarks.buffer.contenders import CONTENDERS, PrioritisedBuffer
from benchmarks.shared.bench import Bench, Goal, RoundsSettings, figure_table, in_turns, report_progress
from benchmarks.shared.bounds import Count, Positive, SomeOf, Within
from benchmarks.shared.machine import available_bytes, date, describe_machine, not_installed, resident_bytes
from benchmarks.shared.processes import in_own_process

BATCH = 256
FILLED_AT_ONCE = 1 << 16
MAX_SIZE = 10**8
BYTES_PER_KEY = 500
"""Bytes for each key that no contender exceeds while it is filled."""
OPERATIONS = ("offer", "sample", "update")
GOAL_US, GOAL_SIZE, GOAL_GROWTH = 5.0, 10**6, 2.0
PEERS = ("torchrl", "cpprb")
Figures = dict[str, dict[str, dict[str, float]]]
"""Microseconds per key, by contender, operation and size."""


@dataclass(frozen=True, kw_only=True)
class BufferSettings(RoundsSettings):
    """Measure what a key costs in full buffers, ours and other libraries': adding, drawing, updating priorities."""

    sizes: Annotated[tuple[int, ...], Within(BATCH, MAX_SIZE)] = (10**4, 10**5, 10**6, 10**7)
    """Capacities in keys. A size that does not fit into memory is left out."""
    batches: Count = 20
    """Batches of each operation in a turn."""
    turn_s: Positive = 1.0
    """Seconds after which the turn of an operation ends early, with at least one batch."""
    contenders: Annotated[tuple[str, ...], SomeOf(CONTENDERS)] = tuple(CONTENDERS)
    """Which buffers are measured."""


def measure(settings: BufferSettings, free_bytes: Callable[[], int] = available_bytes) -> dict[str, Any]:
    """Measure time and memory by contender and size; return them with the goals."""
    left_out = not_installed({name: CONTENDERS[name].needs for name in settings.contenders})
    names = [name for name in settings.contenders if name not in left_out]
    us_per_key: Figures = {name: {operation: {} for operation in OPERATIONS} for name in names}
    bytes_per_key: dict[str, dict[str, float]] = {name: {} for name in names}
    for size in settings.sizes:
        if BYTES_PER_KEY * size > free_bytes():
            left_out[f"{size} keys"] = f"{BYTES_PER_KEY * size / 1e9:.1f} GB of memory are not free"
            continue
        report_progress(f"{size} keys")
        for name in names:
            bytes_per_key[name][str(size)] = round(in_own_process(_growth_bytes, name, size) / size, 1)
        times = _us_per_key(names, size, settings)
        for name, operation in product(names, OPERATIONS):
            us_per_key[name][operation][str(size)] = times[name][operation]
    return {
        "date": date(),
        "machine": describe_machine({"numpy": "numpy"} | {peer: peer for peer in PEERS}),
        "batch": BATCH,
        "rounds": settings.rounds,
        "us_per_key": us_per_key,
        "bytes_per_key": bytes_per_key,
        "goals": {
            goal.name: {"reached": round(goal.reached, 2), "at_most": goal.bound, "met": goal.met}
            for goal in goals_of(us_per_key)
        },
        "left_out": left_out,
    }


def render(_settings: BufferSettings, figures: dict[str, Any]) -> Iterator[RenderableType]:
    """Yield a table, and a note about what was left out."""
    sizes = sorted({size for row in figures["bytes_per_key"].values() for size in row}, key=int)
    rows = {}
    for name, operations in figures["us_per_key"].items():
        for operation, row in operations.items():
            rows[f"{name}, {operation}"] = [f"{row[size]:.2f}" for size in sizes]
        rows[f"{name}, bytes a key"] = [f"{figures['bytes_per_key'][name][size]:.0f}" for size in sizes]
    title = f"CPU microseconds a key, batches of {BATCH}, median of {figures['rounds']} rounds"
    yield figure_table(title, ("buffer and operation", *sizes), rows)
    yield "".join(f"{name}: left out, {why}\n" for name, why in figures["left_out"].items())


def goals_of(us_per_key: Figures) -> Iterator[Goal]:
    """Yield the goals of our buffer for what was measured.

    They bound the microseconds at 10^6 keys, the growth over the sizes, and the ratio to the times of the other libraries.
    """
    for operation, by_size in us_per_key.get("ours", {}).items():
        at_goal = by_size.get(str(GOAL_SIZE))
        if at_goal is not None:
            yield Goal(f"{operation}: microseconds a key at 10^6", at_goal, GOAL_US)
            for peer in PEERS:
                if peer in us_per_key:
                    ratio = at_goal / us_per_key[peer][operation][str(GOAL_SIZE)]
                    yield Goal(f"{operation}: of {peer}'s time at 10^6", ratio, 1.0)
        if len(by_size) > 1:
            sizes = sorted(by_size, key=int)
            growth = by_size[sizes[-1]] / by_size[sizes[0]]
            yield Goal(f"{operation}: growth from {sizes[0]} to {sizes[-1]} keys", growth, GOAL_GROWTH)


COMMAND = Bench(BufferSettings, measure, render, lambda figures: goals_of(figures["us_per_key"]))


def _us_per_key(names: Sequence[str], size: int, settings: BufferSettings) -> Mapping[str, dict[str, float]]:
    """Return the microseconds per key of each contender and operation: the median over the rounds."""
    turns: dict[str, Callable[[], dict[str, float]]] = {name: FullBuffer(name, size, settings).turn for name in names}
    rounds = in_turns(turns, settings.rounds + 1)
    return {  # the first round warms up
        name: {operation: median(turn[operation] for turn in found[1:]) for operation in OPERATIONS}
        for name, found in rounds.items()
    }


class FullBuffer:
    """A full buffer, on which the operations are timed repeatedly."""

    def __init__(self, name: str, size: int, settings: BufferSettings) -> None:
        self._contender, self._settings = CONTENDERS[name], settings
        self._random = np.random.default_rng(size)
        self._buffer = self._contender.make(size)
        self._arrived = _fill(self._buffer, size, self._random)
        self._drawn: list[Any] = []

    def turn(self) -> dict[str, float]:
        """Return the microseconds per key of each operation."""
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
            spent_s = time.process_time() - started_s
            if spent_s > self._settings.turn_s:
                break
        return 1e6 * spent_s / keys / (done + 1)

    def _offer(self, phi: Any) -> None:
        self._buffer.offer(np.arange(self._arrived, self._arrived + phi.size), phi)
        self._arrived += phi.size

    def _sample(self, _phi: Any) -> None:
        self._drawn.append(self._buffer.sample(BATCH))

    def _update(self, phi: Any) -> None:
        self._buffer.update(self._drawn.pop(), phi)


def _fill(buffer: PrioritisedBuffer, size: int, random: np.random.Generator) -> int:
    """Offer as many keys as the buffer can hold; return their number."""
    for start in range(0, size, FILLED_AT_ONCE):
        keys = np.arange(start, min(start + FILLED_AT_ONCE, size))
        buffer.offer(keys, random.uniform(-2, 2, keys.size))
    return size


def _growth_bytes(name: str, size: int) -> int:
    """Make and fill a buffer; returns by how many bytes this process has grown."""
    random = np.random.default_rng(0)
    _fill(CONTENDERS[name].make(BATCH), BATCH, random)  # imports, and everything that is made only once
    gc.collect()
    before = resident_bytes()
    buffer = CONTENDERS[name].make(size)
    _fill(buffer, size, random)
    return resident_bytes() - before
