"""How much of a slow link does the backfill use, and what do live pairs pay for it? How soon is the first one there?

A rig and a learner, the real parts, and pairs as large as 720p stereo over a link of so many MB/s. In each round: bare TCP;
live pairs alone; the backfill alone; live pairs while there is a backlog to pull, over a link with one queue for all, and
over one that lets live pairs go first as their packets ask for. At the end an outage, and what it takes in memory. Throughput
is the median of the rounds, latency is of the pairs of all rounds together.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.faults.learner import outcome
from benchmarks.faults.stage import Stage, StageError
from benchmarks.shared.link import Link

SIZE = (244, 245)
"""Of an image of noise: as many bytes as the JPEG of a 720p image, 179 kB."""
PAIR_BYTES = 2 * 3 * SIZE[0] * SIZE[1]
BACKLOG_PAIRS_PER_S = 150.0
BUFFER_BYTES = 1 << 16
TIMEOUT_S = 120.0
OUTAGE_PAIRS_PER_S = 30.0
SPOOL_BYTES = 1 << 30
GOALS = {"backfill_share": 0.9, "live_p99_ratio": 1.2, "first_live_s": 1.0, "queue_mib": 64.0}
AT_LEAST = ("backfill_share",)
"""The other goals are upper bounds."""


@dataclass(frozen=True, kw_only=True)
class BackfillSettings:
    """Measure the backfill against a slow link, and live pairs beside it."""

    rounds: int = 5
    mb_per_s: float = 12.0
    """Of the link, in 10^6 bytes a second: Wi-Fi."""
    live_per_s: float = 10.0
    """Live pairs a second."""
    window_s: float = 5.0
    """Length of each part of a round."""
    outage_s: float = 10.0
    """Of the outage in which memory is measured, at 30 pairs a second."""
    folder: Path | None = None
    """Where the spool lies while it runs; the system's temporary folder by default."""
    json: bool = False
    """One JSON object instead of the table."""


Window = tuple[int, int]
"""From when to when, by the machine's monotonic clock, nanoseconds."""


@dataclass(slots=True)
class Windows:
    """When what was going on; one entry a round."""

    bare_mb_per_s: list[float] = field(default_factory=list)
    live: list[Window] = field(default_factory=list)
    backfill: list[Window] = field(default_factory=list)
    """From the return of the link, without live pairs."""
    queued: list[Window] = field(default_factory=list)
    """From the return of the link, with live pairs, in one queue."""
    marked: list[Window] = field(default_factory=list)
    """The same, live pairs first."""
    outage_ns: int = 0
    """When the link came back from the long one."""
    queue_mib: dict[str, float] = field(default_factory=dict)


def main(arguments: Sequence[str]) -> int:
    """Measure; returns 0 where all goals are reached, else 1."""
    settings = tyro.cli(BackfillSettings, args=list(arguments), prog="python -m benchmarks backfill")
    if settings.rounds < 1 or min(settings.mb_per_s, settings.live_per_s, settings.window_s, settings.outage_s) <= 0:
        raise ValueError("--rounds must be at least 1, all other numbers above 0")
    if settings.live_per_s * PAIR_BYTES >= 0.8e6 * settings.mb_per_s:
        raise ValueError("--live-per-s leaves the link no room for a backfill: say less, or more --mb-per-s")
    folder = Path(tempfile.mkdtemp(prefix="backfill-", dir=settings.folder))
    try:
        figures = _figures(settings, folder)
    except StageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    shutil.rmtree(folder)
    _show(figures, settings)
    return 1 if figures["missed"] else 0


def _figures(settings: BackfillSettings, folder: Path) -> dict[str, Any]:
    def link() -> Link:
        return Link(bytes_per_s=1e6 * settings.mb_per_s, buffer_bytes=BUFFER_BYTES)

    stage = Stage(
        folder, rigs=1, learners=1, spool_bytes=SPOOL_BYTES, pairs_per_s=settings.live_per_s, size=SIZE, make_link=link
    )
    windows = Windows()
    try:
        stage.start()
        stage.wait(lambda: stage.kept > 0, TIMEOUT_S)
        for number in range(settings.rounds):
            sys.stderr.write(f"round {number + 1} of {settings.rounds}\n")
            windows.bare_mb_per_s.append(_bare_mb_per_s(link(), settings.window_s))
            _round(stage, settings, windows)
        sys.stderr.write(f"an outage of {settings.outage_s:g} s\n")
        _outage(stage, settings, windows)
        stage.settle()
        stage.end()
        return _evaluate(stage, windows)
    finally:
        stage.close(keep=False)


def _round(stage: Stage, settings: BackfillSettings, windows: Windows) -> None:
    rig, link = stage.rigs[0], stage.links[0, 0]
    link_pairs_per_s = 1e6 * settings.mb_per_s / PAIR_BYTES
    windows.live.append(_window(stage, settings.window_s))
    _pile_up(stage, int(link_pairs_per_s * settings.window_s))
    rig.go(False)
    stage.wait(lambda: rig.rests, TIMEOUT_S)
    windows.backfill.append(_heal_and_drain(stage, link))
    rig.go(True)
    for live_first, beside in ((False, windows.queued), (True, windows.marked)):
        link.prefer_live(live_first)
        _pile_up(stage, int((link_pairs_per_s - settings.live_per_s) * settings.window_s))
        beside.append(_heal_and_drain(stage, link))


def _outage(stage: Stage, settings: BackfillSettings, windows: Windows) -> None:
    """Freeze the link, for that is when queues fill, and see what both processes take more than before."""
    rig = stage.rigs[0]
    processes = {"rig": rig.process.pid, "learner": stage.learners[0].process.pid}
    before = {name: _anonymous_mib(pid) for name, pid in processes.items()}
    most = dict.fromkeys(processes, 0.0)
    rig.process.tell(f"rate {OUTAGE_PAIRS_PER_S}")
    stage.links[0, 0].freeze()
    deadline_s = time.monotonic() + settings.outage_s
    while time.monotonic() < deadline_s:
        stage.attend()
        for name, pid in processes.items():
            most[name] = max(most[name], _anonymous_mib(pid) - before[name])
    windows.queue_mib = {name: round(mib, 1) for name, mib in most.items()}
    rig.process.tell(f"rate {settings.live_per_s}")
    windows.outage_ns, _ = _heal_and_drain(stage, stage.links[0, 0])


def _window(stage: Stage, length_s: float) -> Window:
    began_ns = time.monotonic_ns()
    stage.wait(lambda: False, length_s)
    return began_ns, time.monotonic_ns()


def _pile_up(stage: Stage, pairs: int) -> None:
    """Cut the link and let the rig keep so many pairs; then it goes on at its live pace."""
    rig = stage.rigs[0]
    stage.links[0, 0].cut()
    upto = stage.kept + pairs
    rig.process.tell(f"rate {BACKLOG_PAIRS_PER_S}")
    if not stage.wait(lambda: stage.kept >= upto, TIMEOUT_S):
        raise StageError(f"the rig makes no pairs: see the logs in {stage.folder}")
    rig.process.tell(f"rate {rig.pairs_per_s}")


def _heal_and_drain(stage: Stage, link: Link) -> Window:
    """Let the link come back, and wait until what was kept before has been committed."""
    before = set(stage.rigs[0].journal.kept)
    began_ns = time.monotonic_ns()
    link.heal()
    if not stage.wait(lambda: before.isdisjoint(stage.owed()), TIMEOUT_S):
        raise StageError(f"the learner does not catch up: see the logs in {stage.folder}")
    return began_ns, time.monotonic_ns()


def _bare_mb_per_s(link: Link, length_s: float) -> float:
    """What one plain TCP connection through such a link brings, in 10^6 bytes a second."""
    with link, socket.create_server(("127.0.0.1", 0)) as server:
        sender = threading.Thread(target=_send_zeros, args=(server,), daemon=True)
        sender.start()
        link.point_to(server.getsockname()[1])
        with closing(_connected(link.port)) as connection:
            came_bytes, began_s = len(connection.recv(1 << 16)), time.monotonic()
            while time.monotonic() - began_s < length_s:
                came_bytes += len(connection.recv(1 << 16))
            rate = 1e-6 * came_bytes / (time.monotonic() - began_s)
        sender.join()
    return rate


def _send_zeros(server: socket.socket) -> None:
    with closing(server.accept()[0]) as connection, suppress(OSError):  # the other end closes
        while True:
            connection.sendall(bytes(1 << 16))


def _connected(port: int) -> socket.socket:
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        except ConnectionRefusedError:
            if time.monotonic() > deadline_s:
                raise


def _anonymous_mib(pid: int | None) -> float:
    """Memory of a process that is no file's."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    return int(found[1]) / 1024 if found else 0.0


def _evaluate(stage: Stage, windows: Windows) -> dict[str, Any]:
    attempts = stage.rigs[0].journal.attempts
    entered, _ = outcome(stage.learners[0].store)
    trips = sorted((attempts[pair.epoch, pair.seq].at_ns, pair.at_ns) for pair in entered)
    bare = statistics.median(windows.bare_mb_per_s)
    drained = statistics.median(_late_mb_per_s(trips, window) for window in windows.backfill)
    live = [1e-6 * (came - made) for window in windows.live for made, came in trips if window[0] <= made < window[1]]
    queued, marked = (
        [latency for window in beside for latency in _latencies_beside(trips, window)]
        for beside in (windows.queued, windows.marked)
    )
    returns_ns = [began_ns for began_ns, _ in (*windows.queued, *windows.marked)]
    first = [_first_s(trips, began_ns) for began_ns in (*returns_ns, windows.outage_ns)]
    figures: dict[str, Any] = {
        "link_mb_per_s": round(bare, 2),
        "backfill_mb_per_s": round(drained, 2),
        "backfill_share": round(drained / bare, 3),
        "live_ms": _spread(live),
        "live_in_one_queue_ms": _spread(queued),
        "live_first_ms": _spread(marked),
        "live_p99_ratio_in_one_queue": round(_spread(queued)["p99"] / _spread(live)["p99"], 2),
        "live_p99_ratio": round(_spread(marked)["p99"] / _spread(live)["p99"], 2),
        "first_live_s": round(max(first), 3),
        "first_live_median_s": round(statistics.median(first), 3),
        "queue_mib": max(windows.queue_mib.values()),
        "queues_mib": windows.queue_mib,
    }
    missed = [name for name, goal in GOALS.items() if (figures[name] < goal) == (name in AT_LEAST)]
    return {**figures, "goals": GOALS, "missed": missed}


def _late(trips: Sequence[tuple[int, int]], window: Window) -> list[int]:
    """When the pairs came that were made before the window, and came in it."""
    return sorted(came for made, came in trips if made < window[0] <= came < window[1])


def _late_mb_per_s(trips: Sequence[tuple[int, int]], window: Window) -> float:
    came = _late(trips, window)
    return 1e-6 * PAIR_BYTES * (len(came) - 1) / (1e-9 * (came[-1] - came[0]))


def _latencies_beside(trips: Sequence[tuple[int, int]], window: Window) -> list[float]:
    """Of the live pairs made while late ones came, ms."""
    late = _late(trips, window)
    return [1e-6 * (came - made) for made, came in trips if late[0] <= made < late[-1]]


def _first_s(trips: Sequence[tuple[int, int]], began_ns: int) -> float:
    return 1e-9 * (min(came for made, came in trips if made >= began_ns) - began_ns)


def _spread(values: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "count": len(values)}


def _show(figures: dict[str, Any], settings: BackfillSettings) -> None:
    if settings.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    table = Table("what", "how much", title=f"{settings.rounds} rounds over {settings.mb_per_s:g} MB/s")
    for name, value in figures.items():
        table.add_row(name, str(value))
    Console().print(table)
