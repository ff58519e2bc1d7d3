"""How much of a slow link does the backfill use, how much later are live pairs, and how soon does the first live pair arrive?

A real rig and a real learner send and receive pairs as large as 720p stereo over a link of limited speed. Each round has these
parts: one plain TCP connection; live pairs alone; the backfill alone; live pairs during a backfill, over a link with one queue
for all data, and over a link that lets live pairs go first, as their packets request. At the end there is an outage, and the
memory that it takes. Throughput is the median of the rounds; latency is that of the pairs of all rounds together.
"""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.faults.figures import MadeAndArrived
from benchmarks.faults.rig import RigLoad
from benchmarks.faults.stage import Stage
from benchmarks.shared.bench import Bench, Goal, RoundsSettings, counted, name_value_table, report_progress
from benchmarks.shared.bounds import Positive
from benchmarks.shared.link import Link
from benchmarks.shared.machine import HOST
from benchmarks.shared.pairs import NOISE_SIZE
from learner.errors import SettingsError

PAIR_BYTES = 2 * 3 * NOISE_SIZE[0] * NOISE_SIZE[1]
BACKLOG_PAIRS_PER_S = 150.0
BUFFER_BYTES = 1 << 16
TIMEOUT_S = 300.0
OUTAGE_PAIRS_PER_S = 30.0
SPOOL_BYTES = 1 << 30
GOALS = {"backfill_share": 0.9, "live_p99_ratio": 1.2, "first_live_s": 1.0, "queue_mib": 64.0}
AT_LEAST = ("backfill_share",)
"""Names of the goals that are lower bounds; all others are upper bounds."""
MAX_LIVE_SHARE = 0.8
"""Largest share of the link that live pairs may need."""


@dataclass(frozen=True, kw_only=True)
class BackfillSettings(RoundsSettings):
    """Measure the backfill over a slow link, and the live pairs during it."""

    mb_per_s: Positive = 12.0
    """Speed of the link, 10^6 bytes per second; the default is that of Wi-Fi."""
    live_per_s: Positive = 10.0
    """Live pairs per second."""
    window_s: Positive = 5.0
    """Length of each part of a round."""
    outage_s: Positive = 10.0
    """Length of the outage in which memory is measured, seconds, with 30 pairs per second."""
    folder: Path | None = None
    """Where the spool lies during the run; the system's temporary folder by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.live_per_s * PAIR_BYTES >= MAX_LIVE_SHARE * 1e6 * self.mb_per_s:
            raise SettingsError("--live-per-s leaves the link no room for a backfill: lower it, or raise --mb-per-s")


Window = tuple[int, int]
"""Begin and end of a time, nanoseconds of the machine's monotonic clock."""


@dataclass(slots=True)
class Windows:
    """The times of the parts, one entry for each round."""

    bare_mb_per_s: list[float] = field(default_factory=list)
    live: list[Window] = field(default_factory=list)
    backfill: list[Window] = field(default_factory=list)
    """The time from the return of the link, without live pairs."""
    queued: list[Window] = field(default_factory=list)
    """The time from the return of the link, with live pairs, in one queue."""
    marked: list[Window] = field(default_factory=list)
    """The same, but live pairs go first."""
    outage_ns: int = 0
    """Time at which the link came back from the long outage."""
    queue_mib: dict[str, float] = field(default_factory=dict)


def measure(settings: BackfillSettings) -> dict[str, Any]:
    """Run all rounds and return the figures. If the run fails, its files are kept."""
    folder = Path(tempfile.mkdtemp(prefix="backfill-", dir=settings.folder))
    load = RigLoad(SPOOL_BYTES, settings.live_per_s, NOISE_SIZE)
    stage = Stage(folder, load, rigs=1, learners=1, make_link=lambda: _link(settings))
    windows = Windows()
    try:
        stage.start()
        stage.require(lambda: stage.kept > 0, TIMEOUT_S, "the rig makes no pairs")
        for _ in counted(range(settings.rounds), "round"):
            windows.bare_mb_per_s.append(_bare_mb_per_s(_link(settings), settings.window_s))
            _round(stage, settings, windows)
        report_progress(f"an outage of {settings.outage_s:g} s")
        _outage(stage, settings, windows)
        stage.settle()
        stage.end()
        figures = _evaluate(stage, windows)
    finally:
        stage.close(keep=False)
    shutil.rmtree(folder)
    return figures


def render(settings: BackfillSettings, figures: dict[str, Any]) -> list[Table]:
    """Return one table of the figures."""
    return [name_value_table(f"{settings.rounds} rounds over {settings.mb_per_s:g} MB/s", figures)]


def goals_of(figures: dict[str, Any]) -> Iterator[Goal]:
    """Yield the goals: the backfill uses the link, live pairs hardly wait for it, and an outage takes little memory."""
    for name, bound in GOALS.items():
        yield Goal(name, figures[name], bound, at_least=name in AT_LEAST)


COMMAND = Bench(BackfillSettings, measure, render, goals_of)


def _link(settings: BackfillSettings) -> Link:
    return Link(bytes_per_s=1e6 * settings.mb_per_s, buffer_bytes=BUFFER_BYTES)


def _round(stage: Stage, settings: BackfillSettings, windows: Windows) -> None:
    rig, link = stage.rigs[0], stage.links[0, 0]
    link_pairs_per_s = 1e6 * settings.mb_per_s / PAIR_BYTES
    windows.live.append(_window(stage, settings.window_s))
    _pile_up(stage, int(link_pairs_per_s * settings.window_s))
    rig.go(False)
    stage.require(lambda: rig.rests, TIMEOUT_S, "the rig does not rest")
    windows.backfill.append(_heal_and_drain(stage, link.cut))
    rig.go(True)
    for live_first, beside in ((False, windows.queued), (True, windows.marked)):
        link.live_first = live_first
        _pile_up(stage, int((link_pairs_per_s - settings.live_per_s) * settings.window_s))
        beside.append(_heal_and_drain(stage, link.cut))


def _outage(stage: Stage, settings: BackfillSettings, windows: Windows) -> None:
    """Freeze the link, so that the queues fill, and measure how much both processes grow."""
    rig = stage.rigs[0]
    processes = {"rig": rig.process.pid, "learner": stage.consumers[0].process.pid}
    before = {name: _anonymous_mib(pid) for name, pid in processes.items()}
    most = dict.fromkeys(processes, 0.0)
    rig.process.order(f"rate {OUTAGE_PAIRS_PER_S}")
    stage.links[0, 0].freeze()
    deadline_s = time.monotonic() + settings.outage_s
    while time.monotonic() < deadline_s:
        stage.attend()
        for name, pid in processes.items():
            most[name] = max(most[name], _anonymous_mib(pid) - before[name])
    windows.queue_mib = {name: round(mib, 1) for name, mib in most.items()}
    rig.process.order(f"rate {settings.live_per_s}")
    windows.outage_ns, _ = _heal_and_drain(stage, stage.links[0, 0].freeze)


def _window(stage: Stage, length_s: float) -> Window:
    """Let the rig run for so many seconds, and until it has kept a pair in that time; return the begin and the end."""
    began_ns, kept = time.monotonic_ns(), stage.kept
    stage.wait(lambda: False, length_s)
    stage.require(lambda: stage.kept > kept, TIMEOUT_S, "the rig makes no pairs")
    return began_ns, time.monotonic_ns()


def _pile_up(stage: Stage, pairs: int) -> None:
    """Cut the link while the rig keeps so many pairs; afterwards the rig continues at its live pace."""
    rig = stage.rigs[0]
    stage.links[0, 0].cut()
    upto = stage.kept + pairs
    rig.process.order(f"rate {BACKLOG_PAIRS_PER_S}")
    stage.require(lambda: stage.kept >= upto, TIMEOUT_S, "the rig makes no pairs")
    rig.process.order(f"rate {rig.load.pairs_per_s}")


def _heal_and_drain(stage: Stage, heal: Callable[[int], None]) -> Window:
    """Undo a cut or a freeze of the link, and wait until the pairs kept before have been committed.

    heal: cuts or freezes the link, and undoes this with -1.
    """
    before = set(stage.rigs[0].journal.kept)
    began_ns = time.monotonic_ns()
    heal(-1)
    stage.require(lambda: before.isdisjoint(stage.owed()), TIMEOUT_S, "the learner does not catch up")
    return began_ns, time.monotonic_ns()


def _bare_mb_per_s(link: Link, length_s: float) -> float:
    """Return the throughput of one plain TCP connection through such a link, in 10^6 bytes per second."""
    with closing(link), socket.create_server((HOST, 0)) as server:
        sender = threading.Thread(target=_send_zeros, args=(server,), daemon=True)
        sender.start()
        link.point_to(server.getsockname()[1])
        with _connected(link.port) as connection:
            received_bytes, began_s = len(connection.recv(1 << 16)), time.monotonic()
            while time.monotonic() - began_s < length_s:
                received_bytes += len(connection.recv(1 << 16))
            rate = 1e-6 * received_bytes / (time.monotonic() - began_s)
        sender.join()
    return rate


def _send_zeros(server: socket.socket) -> None:
    with server.accept()[0] as connection, suppress(OSError):  # the other end closes
        while True:
            connection.sendall(bytes(1 << 16))


def _connected(port: int) -> socket.socket:
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return socket.create_connection((HOST, port), TIMEOUT_S)
        except ConnectionRefusedError:
            if time.monotonic() > deadline_s:
                raise


def _anonymous_mib(pid: int | None) -> float:
    """Return the memory of a process in MiB, without mapped files."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    return int(found[1]) / 1024 if found else 0.0


def _evaluate(stage: Stage, windows: Windows) -> dict[str, Any]:
    attempts = stage.rigs[0].journal.attempts
    entered, _ = stage.consumers[0].outcome()
    pairs = sorted((attempts[pair.epoch, pair.seq].at_ns, pair.at_ns) for pair in entered)
    link_mb_per_s = median(windows.bare_mb_per_s)
    backfill_mb_per_s = median(late_mb_per_s(pairs, window) for window in windows.backfill)
    live = [latency for window in windows.live for latency in _latencies_ms(pairs, window)]
    queued, marked = (
        [latency for window in beside for latency in latencies_beside_ms(pairs, window)]
        for beside in (windows.queued, windows.marked)
    )
    returns_ns = [began_ns for began_ns, _ in (*windows.queued, *windows.marked)]
    first = [first_live_s(pairs, began_ns) for began_ns in (*returns_ns, windows.outage_ns)]
    figures: dict[str, Any] = {
        "link_mb_per_s": round(link_mb_per_s, 2),
        "backfill_mb_per_s": round(backfill_mb_per_s, 2),
        "backfill_share": round(backfill_mb_per_s / link_mb_per_s, 3),
        "live_ms": _spread(live),
        "live_in_one_queue_ms": _spread(queued),
        "live_first_ms": _spread(marked),
        "live_p99_ratio_in_one_queue": round(_p99(queued) / _p99(live), 2),
        "live_p99_ratio": round(_p99(marked) / _p99(live), 2),
        "first_live_s": round(max(first), 3),
        "first_live_median_s": round(median(first), 3),
        "queue_mib": max(windows.queue_mib.values()),
        "queues_mib": windows.queue_mib,
    }
    return {**figures, "goals": GOALS, "missed": [goal.name for goal in goals_of(figures) if not goal.met]}


def _late(pairs: Sequence[MadeAndArrived], window: Window) -> list[int]:
    """Return the times within the window at which pairs arrived that had been made before the window, in nanoseconds."""
    return sorted(arrived for made, arrived in pairs if made < window[0] <= arrived < window[1])


def late_mb_per_s(pairs: Sequence[MadeAndArrived], window: Window) -> float:
    """Return the throughput in 10^6 bytes per second of the pairs made before the window, from the first to the last arrival."""
    arrived = _late(pairs, window)
    return 1e-6 * PAIR_BYTES * (len(arrived) - 1) / (1e-9 * (arrived[-1] - arrived[0]))


def _latencies_ms(pairs: Sequence[MadeAndArrived], window: Window) -> list[float]:
    return [1e-6 * (arrived - made) for made, arrived in pairs if window[0] <= made < window[1]]


def latencies_beside_ms(pairs: Sequence[MadeAndArrived], window: Window) -> list[float]:
    """Return the latencies of the live pairs that were made while pairs of the backfill arrived."""
    late = _late(pairs, window)
    return _latencies_ms(pairs, (late[0], late[-1]))


def first_live_s(pairs: Sequence[MadeAndArrived], began_ns: int) -> float:
    """Return the seconds from `began_ns` until the first pair arrived that was made after it."""
    return 1e-9 * (min(arrived for made, arrived in pairs if made >= began_ns) - began_ns)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"p50": round(median(values), 1), "p99": round(_p99(values), 1), "count": len(values)}


def _p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99))
