"""From how many rigs can one learner receive? Pairs per second, fairness, losses, memory and CPU time of its receiving end.

Real publishers, several in a process, send pairs over TCP that are as large as 720p stereo and were made beforehand. In the paced
part each rig has its own rate, time and wrong clock; some stall, and some are restarted in the middle. Pairs that the live stream
drops are pulled from their shelves. In the second part, the flood, all rigs send as fast as pairs are taken. Images are verified,
not decoded, and nothing is trained. The exit code is 0 only if every pair that was made arrived exactly once.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from rich.table import Table

from benchmarks.fleet.rigs import FleetRigPlan, Incident, work
from benchmarks.shared.bench import Bench, BenchSettings, Goal, figure_table, report_progress
from benchmarks.shared.bounds import Count, Within
from benchmarks.shared.machine import date, resident_bytes
from benchmarks.shared.pairs import NOISE_SIZE, noise_pair
from benchmarks.shared.processes import Workers
from learner.errors import SettingsError
from stream.errors import EndOfStream
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair

PAIR_BYTES = 2 * 3 * NOISE_SIZE[0] * NOISE_SIZE[1]
TICK_S = 0.5
"""Seconds between two acknowledgements, and between two measurements of the memory."""
WARM_SHARE = 0.25
"""Share of the time that is left out of rates and memory, until the queues are filled."""
DRAIN_S = 60.0
CLOCK_S = 3600.0
"""Largest error of a rig's clock."""


@dataclass(frozen=True, kw_only=True)
class FleetSettings(BenchSettings):
    """Let many rigs send to one subscriber."""

    devices: Annotated[int, Within(1, 1024)] = 64
    """Number of rigs."""
    processes: Count = 2
    """Number of processes in which the rigs run."""
    pairs_per_s: Annotated[float, Within(0, 1000, above=True)] = 3.0
    """Pairs per second of each rig, in the paced part."""
    paced_s: Annotated[float, Within(1, 600)] = 20.0
    """Length of the paced part."""
    flood_s: Annotated[float, Within(1, 600)] = 10.0
    """Length of the flood."""
    mishaps: Annotated[int, Within(0)] = 8
    """Number of rigs that stall, and also of rigs that are restarted."""
    seed: int = 0
    """Seed of the times and clocks of the rigs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.processes > self.devices or 2 * self.mishaps >= self.devices:
            raise SettingsError(f"--processes must be at most {self.devices}, --mishaps below {self.devices / 2:g}")


@dataclass
class Arrivals:
    """The pairs that arrived in one part."""

    counts: dict[tuple[str, str], bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    """For each device and epoch, how often each number arrived."""
    in_window: Counter[str] = field(default_factory=Counter)
    """Number of pairs of each device that arrived after the warm-up."""
    window_s: float = 0.0
    rss_mib: list[float] = field(default_factory=list)
    """Resident memory, measured from the end of the warm-up until the last pair was pulled."""
    cpu_s: float = 0.0

    def add(self, pair: EncodedPair) -> None:
        """Count a pair."""
        row, seq = self.counts[pair.header.device, pair.header.epoch], pair.header.seq
        row.extend(bytes(max(0, seq + 1 - len(row))))
        row[seq] += 1

    def distinct(self, device: str) -> int:
        """Return the number of different pairs of a device that arrived."""
        return sum(len(row) - row.count(0) for (name, _), row in self.counts.items() if name == device)

    def repeated(self) -> int:
        """Return the number of pairs that arrived more than once."""
        return sum(len(row) - row.count(0) - row.count(1) for row in self.counts.values())


def measure(settings: FleetSettings) -> dict[str, Any]:
    """Run both parts and return their figures."""
    flood = [FleetRigPlan(f"rig{number}", None) for number in range(settings.devices)]
    fleets = {"paced": (paced_fleet(settings), settings.paced_s), "flood": (flood, settings.flood_s)}
    parts = {}
    for name, (plans, duration_s) in fleets.items():
        report_progress(f"{name}: {len(plans)} rigs for {duration_s:.0f} s")
        parts[name] = _run(plans, settings.processes, duration_s)
    return {
        "date": date(),
        "devices": settings.devices,
        "cores": len(os.sched_getaffinity(0)),
        "pair_bytes": PAIR_BYTES,
        **parts,
    }


def render(_settings: FleetSettings, figures: dict[str, Any]) -> list[Table]:
    """Return one table with both parts side by side."""
    parts = [figures["paced"], figures["flood"]]
    rows = {name.replace("_", " "): [f"{part[name]:g}" for part in parts] for name in parts[0]}
    return [figure_table("", ("", "paced", "flood"), rows)]


def goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """Yield the goal: every pair arrives exactly once."""
    for part in ("paced", "flood"):
        yield from (Goal(f"{part}: {name}", figures[part][name], 0) for name in ("missing", "twice", "lost"))


COMMAND = Bench(FleetSettings, measure, render, goals)


def paced_fleet(settings: FleetSettings) -> list[FleetRigPlan]:
    """Return plans of rigs with the same rate, each with its own time and clock; the first ones have an incident."""
    random = np.random.default_rng(settings.seed)
    return [
        FleetRigPlan(
            f"rig{number}",
            settings.pairs_per_s,
            phase_s=float(random.uniform(0, 1 / settings.pairs_per_s)),
            clock_s=float(random.uniform(-CLOCK_S, CLOCK_S)),
            incident=_incident(number, settings.mishaps),
        )
        for number in range(settings.devices)
    ]


def _incident(number: int, each: int) -> Incident:
    return "stall" if number < each else "restart" if number < 2 * each else "none"


def fairness(counts: Sequence[int]) -> float:
    """Return Jain's fairness index of n counts (Jain et al. 1984): 1 if all are equal, 1 / n if all but one are 0."""
    squares = sum(count**2 for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 1.0


def _run(plans: Sequence[FleetRigPlan], processes: int, duration_s: float) -> dict[str, Any]:
    names = [f"process {number} of rigs" for number in range(processes)]
    with closing(Workers()) as workers:
        for number, name in enumerate(names):
            workers.start(name, work, list(plans[number::processes]), noise_pair())
        endpoints = [endpoint for name in names for endpoint in workers.receive(name)]
        with Subscriber(endpoints, consumer="fleet", end_on_bye=True) as source:
            workers.send(duration_s)
            arrivals = _receive(source, duration_s)
            made = {device: count for name in names for device, count in workers.receive(name).items()}
            stats = source.stats()
        workers.send("leave")
    steady = [arrivals.in_window[plan.device] for plan in plans if plan.incident == "none"]
    pairs, in_window = sum(made.values()), sum(arrivals.in_window.values())
    return {
        "made": pairs,
        "missing": sum(count - arrivals.distinct(device) for device, count in made.items()),
        "twice": arrivals.repeated(),
        "lost": stats.lost,
        "repeated": stats.repeated,
        "pairs_per_s": round(in_window / arrivals.window_s, 1),
        "mb_per_s": round(in_window / arrivals.window_s * PAIR_BYTES / 1e6, 1),
        "fairness": round(fairness(steady), 4),
        "slowest_to_fastest": round(min(steady) / max(1, max(steady)), 3),
        "cpu_ms_per_pair": round(1e3 * arrivals.cpu_s / max(1, pairs), 3),
        "rss_before_mib": round(arrivals.rss_mib[0], 1),
        "rss_most_mib": round(max(arrivals.rss_mib), 1),
        "rss_after_mib": round(arrivals.rss_mib[-1], 1),
    }


def _receive(source: Subscriber, duration_s: float) -> Arrivals:
    arrivals, started_s, started_cpu_s = Arrivals(), time.monotonic(), time.process_time()
    warm_s, end_s = started_s + WARM_SHARE * duration_s, started_s + duration_s
    arrivals.window_s, tick_s = end_s - warm_s, warm_s
    while (now_s := time.monotonic()) < end_s + DRAIN_S:
        try:
            pairs = source.receive(256, TICK_S)
        except EndOfStream:
            break
        for pair in pairs:
            arrivals.add(pair)
            arrivals.in_window[pair.header.device] += warm_s <= now_s < end_s
        if now_s >= tick_s:
            tick_s = now_s + TICK_S
            source.acknowledge(source.cursor())
            arrivals.rss_mib.append(resident_bytes() / 2**20)
    arrivals.cpu_s = time.process_time() - started_cpu_s
    return arrivals
