"""How many rigs does one learner hear? Pairs a second, fairness, losses, memory and CPU of its receiving end.

Real publishers over TCP, several in a process, send pairs as large as 720p stereo that were made beforehand. Paced, each keeps
its own rate, moment and wrong clock, some stall and some are started again in the middle; what the live stream drops is pulled
from their shelves. Flooded, all send whatever is taken. Images are verified, not decoded, and nothing is trained.
The exit code is 0 only where every pair that was made came, once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.fleet.rigs import Mishap, RigPlan, work
from stream.codec import encode_pair
from stream.errors import EndOfStream, StreamError
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair

SIZE = (244, 245)
"""Of an image of noise: as many bytes as the JPEG of a 720p image, 179 kB."""
TICK_S = 0.5
"""Between acknowledgements, and looks at the memory."""
WARM_SHARE = 0.25
"""Of the time, after which rates and memory are measured: queues are filled by then."""
DRAIN_S = 60.0
START_S = 60.0
CLOCK_S = 3600.0
"""Largest error of a rig's clock."""


@dataclass(frozen=True, kw_only=True)
class FleetSettings:
    """Let a fleet of rigs send to one subscriber."""

    devices: int = 64
    processes: int = 2
    """Of the rigs."""
    pairs_per_s: float = 3.0
    """Of each rig, in the paced part."""
    paced_s: float = 20.0
    flood_s: float = 10.0
    mishaps: int = 8
    """Rigs that stall, and as many that are started again."""
    seed: int = 0
    """Of the moments and clocks."""
    json: bool = False
    """One JSON object; progress and the table go to the standard error either way."""


@dataclass
class Heard:
    """What came in one part."""

    seen: dict[tuple[str, str], bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    """By device and epoch, how often each number came."""
    in_window: Counter[str] = field(default_factory=Counter)
    """Pairs of each device behind the warm-up."""
    window_s: float = 0.0
    rss_mib: list[float] = field(default_factory=list)
    """From the end of the warm-up until the last pair was pulled."""
    cpu_s: float = 0.0

    def take(self, pair: EncodedPair) -> None:
        """Count it."""
        row, seq = self.seen[pair.header.device, pair.header.epoch], pair.header.seq
        row.extend(bytes(max(0, seq + 1 - len(row))))
        row[seq] += 1

    def count(self, device: str) -> int:
        """Different pairs of it that came."""
        return sum(len(row) - row.count(0) for (name, _), row in self.seen.items() if name == device)

    def twice(self) -> int:
        """Pairs that came more than once."""
        return sum(len(row) - row.count(0) - row.count(1) for row in self.seen.values())


def main(arguments: Sequence[str]) -> int:
    """Run both parts and print what came; returns 1 where a pair was lost or came twice."""
    settings = tyro.cli(FleetSettings, args=list(arguments), prog="python -m benchmarks fleet")
    _check(settings)
    console = Console(stderr=True, highlight=False)
    parts = {}
    for name, plans, duration_s in (
        ("paced", paced_fleet(settings), settings.paced_s),
        ("flood", [RigPlan(f"rig{number}", None) for number in range(settings.devices)], settings.flood_s),
    ):
        console.print(f"{time.strftime('%H:%M:%S')}  {name}: {len(plans)} rigs for {duration_s:.0f} s")
        parts[name] = _run(plans, settings.processes, duration_s)
    figures = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "devices": settings.devices,
        "cores": len(os.sched_getaffinity(0)),
        "pair_bytes": 2 * 3 * SIZE[0] * SIZE[1],
        **parts,
    }
    console.print(_table(parts))
    if settings.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if all(part["missing"] == part["twice"] == part["lost"] == 0 for part in parts.values()) else 1


def paced_fleet(settings: FleetSettings) -> list[RigPlan]:
    """Rigs of one rate, each with its own moment and clock; the first ones meet a mishap."""
    random = np.random.default_rng(settings.seed)
    return [
        RigPlan(
            f"rig{number}",
            settings.pairs_per_s,
            phase_s=float(random.uniform(0, 1 / settings.pairs_per_s)),
            clock_s=float(random.uniform(-CLOCK_S, CLOCK_S)),
            mishap=_mishap(number, settings.mishaps),
        )
        for number in range(settings.devices)
    ]


def _mishap(number: int, each: int) -> Mishap:
    return "stall" if number < each else "restart" if number < 2 * each else "none"


def fairness(counts: Sequence[int]) -> float:
    """Jain's index of what each got: 1 where all got alike, 1 / n where one got everything (Jain et al. 1984)."""
    squares = sum(count**2 for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 1.0


def _run(plans: Sequence[RigPlan], processes: int, duration_s: float) -> dict[str, Any]:
    with (
        _rigs(plans, processes) as (pipes, endpoints),
        Subscriber(endpoints, consumer="fleet", end_on_bye=True) as source,
    ):
        for pipe in pipes:
            pipe.send(duration_s)
        heard = _listen(source, duration_s)
        made = {device: count for pipe in pipes for device, count in _answer(pipe).items()}
        stats = source.stats()
    steady = [heard.in_window[plan.device] for plan in plans if plan.mishap == "none"]
    pairs, in_window = sum(made.values()), sum(heard.in_window.values())
    return {
        "made": pairs,
        "missing": sum(count - heard.count(device) for device, count in made.items()),
        "twice": heard.twice(),
        "lost": stats.lost,
        "repeated": stats.repeated,
        "pairs_per_s": round(in_window / heard.window_s, 1),
        "mb_per_s": round(in_window / heard.window_s * 2 * 3 * SIZE[0] * SIZE[1] / 1e6, 1),
        "fairness": round(fairness(steady), 4),
        "slowest_to_fastest": round(min(steady) / max(1, max(steady)), 3),
        "cpu_ms_per_pair": round(1e3 * heard.cpu_s / max(1, pairs), 3),
        "rss_before_mib": round(heard.rss_mib[0], 1),
        "rss_most_mib": round(max(heard.rss_mib), 1),
        "rss_after_mib": round(heard.rss_mib[-1], 1),
    }


def _listen(source: Subscriber, duration_s: float) -> Heard:
    heard, started_s, started_cpu_s = Heard(), time.monotonic(), _cpu_s()
    warm_s, end_s = started_s + WARM_SHARE * duration_s, started_s + duration_s
    heard.window_s, tick_s = end_s - warm_s, warm_s
    while (now_s := time.monotonic()) < end_s + DRAIN_S:
        try:
            pairs = source.receive(256, TICK_S)
        except EndOfStream:
            break
        for pair in pairs:
            heard.take(pair)
            heard.in_window[pair.header.device] += warm_s <= now_s < end_s
        if now_s >= tick_s:
            tick_s = now_s + TICK_S
            source.acknowledge(source.cursor())
            heard.rss_mib.append(_rss_mib())
    heard.cpu_s = _cpu_s() - started_cpu_s
    return heard


@contextmanager
def _rigs(plans: Sequence[RigPlan], processes: int) -> Iterator[tuple[list[Connection], list[str]]]:
    """Processes of rigs that listen: a pipe to each, and all endpoints."""
    spawn, pair = multiprocessing.get_context("spawn"), _pair()
    ends = [spawn.Pipe() for _ in range(processes)]
    rigs = [
        spawn.Process(target=work, args=(theirs, list(plans[number::processes]), pair), daemon=True)
        for number, (_, theirs) in enumerate(ends)
    ]
    for process in rigs:
        process.start()
    try:
        pipes = [ours for ours, _ in ends]
        yield pipes, [endpoint for pipe in pipes for endpoint in _answer(pipe)]
        for pipe in pipes:
            pipe.send("leave")
        for process in rigs:
            process.join(START_S)
    finally:
        for process in rigs:
            process.kill()
            process.join()


def _answer(pipe: Connection) -> Any:
    try:
        if pipe.poll(START_S):
            return pipe.recv()
    except EOFError:
        pass
    raise StreamError("a process of rigs did not answer: see what it said above")


def _pair() -> EncodedPair:
    left, right = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    return encode_pair(left, right, device="rig", epoch="0" * 32, seq=0, left_ns=0, right_ns=0, codec="lz4")


def _check(settings: FleetSettings) -> None:
    if not 1 <= settings.processes <= settings.devices <= 1024 or settings.mishaps < 0:
        raise ValueError("--devices are 1 to 1024, --processes at most as many, --mishaps at least 0")
    if 2 * settings.mishaps >= settings.devices:
        raise ValueError(f"--mishaps must leave a rig alone: fewer than {settings.devices / 2:g}")
    if not 0 < settings.pairs_per_s <= 1000 or not all(1 <= s <= 600 for s in (settings.paced_s, settings.flood_s)):
        raise ValueError("--pairs-per-s must be above 0 and at most 1000, --paced-s and --flood-s 1 to 600")


def _table(parts: dict[str, dict[str, Any]]) -> Table:
    table = Table("", *parts)
    for name in next(iter(parts.values())):
        table.add_row(name.replace("_", " "), *(f"{part[name]:g}" for part in parts.values()))
    return table


def _rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
