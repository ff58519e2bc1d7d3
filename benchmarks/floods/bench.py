"""Do rigs and learners keep their memory, their pairs and their honest peers while somebody floods them?

Each flood runs in a process of its own, with a trusted key where there are keys, against a real rig (`python -m device`) or a
learner that is busy: it receives nothing while the flood lasts. An honest learner, or an honest rig, is beside it. The resident
memory is measured ten times a second, before, during and after the flood. The exit code is 0 only if a rig stays below 400 MB, a
learner within its size before the flood plus 512 MB, and every pair of the honest rig arrives.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

from matplotlib.figure import Figure
from rich.console import RenderableType

from benchmarks.floods import attacks
from benchmarks.floods.attacks import NAME, ON_LEARNERS, ON_RIGS, Aim
from benchmarks.shared.bench import Bench, BenchSettings, Goal, counted, figure_table, report_progress
from benchmarks.shared.bounds import SomeOf, Within
from benchmarks.shared.machine import HOST, date, describe_machine, free_port, resident_bytes
from benchmarks.shared.processes import Workers
from learner.errors import Failed
from stream.live.subscriber import Subscriber
from stream.transport.keys import make_keys, trust
from stream.transport.security import Security

RIG_MB = 400
LEARNER_MB = 512
TICK_S = 0.1
START_S = 120.0
DRAIN_S = 60.0
RIG = (
    "--camera sim --size 320x240 --fps 10 --codec lz4 --name rig --dedupe-threshold 0.01 --wait-for-learner no "
    "--spool-gib 1 --disk-floor-gib 0"
)
Length = Annotated[float, Within(1, 600)]


@dataclass(frozen=True, kw_only=True)
class FloodsSettings(BenchSettings):
    """Flood rigs and learners, and measure their memory."""

    floods: Annotated[tuple[str, ...], SomeOf([*ON_RIGS, *ON_LEARNERS])] = (*ON_RIGS, *ON_LEARNERS)
    """The floods to try."""
    before_s: Length = 3.0
    """Seconds of honest work before the flood."""
    flood_s: Length = 10.0
    """Seconds of a flood."""
    after_s: Length = 5.0
    """Seconds after it until the last measurement."""
    keys: bool = False
    """Use keys; the peer that floods has a trusted one."""
    plot: Path | None = None
    """Draw the memory over time into this file, .svg or .png."""


def measure(settings: FloodsSettings) -> dict[str, Any]:
    """Run the floods one after the other and return their figures."""
    floods = {}
    for name in counted(settings.floods, "flood"):
        with tempfile.TemporaryDirectory(prefix="babyagent-") as folder:
            floods[name] = _run(name, settings, Path(folder))
        shown = {key: value for key, value in floods[name].items() if key != "rss_mb"}
        report_progress(f"{name}: {json.dumps(shown)}")
    figures = {"date": date(), "machine": describe_machine({"pyzmq": "zmq"}), "keys": settings.keys, "floods": floods}
    if settings.plot is not None:
        plot(floods, settings.plot)
    return figures


def render(_settings: FloodsSettings, figures: dict[str, Any]) -> Iterator[RenderableType]:
    """Yield one table."""
    names = ("victim", "before_mb", "most_mb", "after_mb", "bound_mb", "honest_pairs", "missing", "ended")
    rows = {name: [flood[column] for column in names] for name, flood in figures["floods"].items()}
    yield figure_table("resident memory, and pairs of the honest rig", ("flood", *names), rows)


def goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """Yield the goals: bounded memory, honest peers are served, and nothing is missing."""
    for name, flood in figures["floods"].items():
        yield Goal(f"{name}: most MB", flood["most_mb"], flood["bound_mb"])
        yield Goal(f"{name}: honest pairs", flood["honest_pairs"], 1, at_least=True)
        yield Goal(f"{name}: missing pairs", flood["missing"], 0)
        yield Goal(f"{name}: processes that ended", flood["ended"], 0)


COMMAND = Bench(FloodsSettings, measure, render, goals)


def plot(floods: dict[str, Any], path: Path) -> None:
    """Draw the memory of each flood over time."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, flood in floods.items():
        axes.plot(*zip(*flood["rss_mb"], strict=True), label=name)
    axes.axhline(RIG_MB, color="grey", linestyle=":")
    axes.set(xlabel="seconds", ylabel="resident memory, MB", ylim=0)
    axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(path)


def receive_honestly(pipe: Connection, endpoints: list[str], keys: Path | None, is_busy: bool) -> None:
    """Be a learner: report each second how many pairs of the rig have come, and at the end what is missing.

    is_busy: receive nothing until the first message comes through the pipe.
    """
    security = None if keys is None else Security.load(keys)
    counts: list[int] = [0]
    with Subscriber(endpoints, consumer="honest", security=security) as source:
        while "rig" not in source.stats().devices or not source.backlog():
            time.sleep(TICK_S)
        pipe.send("ready")
        while is_busy and not pipe.poll(TICK_S):
            pass
        while not pipe.poll(0) or pipe.recv() != "leave":
            counts[0] += sum(pair.header.device == "rig" for pair in source.receive(64, TICK_S))
            source.acknowledge(source.cursor())
        deadline_s = time.monotonic() + DRAIN_S
        while (missing := _missing(source)) and time.monotonic() < deadline_s:
            counts[0] += sum(pair.header.device == "rig" for pair in source.receive(64, TICK_S))
        pipe.send((counts[0], missing))


def _missing(source: Subscriber) -> int:
    stats = source.stats().devices["rig"]
    return stats.lost + stats.pending


def _run(name: str, settings: FloodsSettings, folder: Path) -> dict[str, Any]:
    keys = _keys(folder / "keys") if settings.keys else None
    on_rig, honest, hostile = name in ON_RIGS, free_port(), 0
    with ExitStack() as stack:
        rig = stack.enter_context(_rig(honest, folder, keys))
        workers = stack.enter_context(closing(Workers()))
        hostile = honest if on_rig else free_port()
        ports = [honest] if on_rig else [hostile, honest]
        mark = "" if keys is None else f"#{NAME}"
        endpoints = [f"tcp://{HOST}:{port}{mark}" for port in ports]
        workers.start("learner", receive_honestly, endpoints, keys, not on_rig)
        workers.receive("learner", START_S)
        pid = rig.pid if on_rig else workers.pid("learner")
        memory = _Memory(pid)
        memory.watch(settings.before_s)
        with closing(Workers()) as flood:
            flood.start(name, attacks.work, name, Aim(hostile, keys))
            flood.receive(name, START_S)
            memory.watch(settings.flood_s)
            flood.send("stop")
        memory.watch(settings.after_s)
        workers.send("go on")
        memory.watch(settings.before_s)
        rig.terminate()
        with suppress(subprocess.TimeoutExpired):
            rig.wait(1.0)  # it may wait for acknowledgements
        workers.send("leave")
        pairs, missing = workers.receive("learner", 2 * DRAIN_S)
    return memory.figures(settings, on_rig) | {"honest_pairs": pairs, "missing": missing}


class _Memory:
    """The resident memory of a process over time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._started_s = time.monotonic()
        self._mb: list[tuple[float, float]] = []
        self._ended = 0

    def watch(self, duration_s: float) -> None:
        """Measure for some seconds."""
        end_s = time.monotonic() + duration_s
        while not self._ended and (now_s := time.monotonic()) < end_s:
            try:
                size_mb = resident_bytes(self._pid) / 1e6
            except (OSError, IndexError):
                self._ended = 1
                return
            self._mb.append((round(now_s - self._started_s, 2), round(size_mb, 1)))
            time.sleep(TICK_S)

    def figures(self, settings: FloodsSettings, on_rig: bool) -> dict[str, Any]:
        """Return the figures of a flood."""
        before = max((size for at_s, size in self._mb if at_s < settings.before_s), default=0.0)
        return {
            "victim": "rig" if on_rig else "learner",
            "before_mb": before,
            "most_mb": max(size for _, size in self._mb),
            "after_mb": self._mb[-1][1],
            "bound_mb": RIG_MB if on_rig else before + LEARNER_MB,
            "ended": self._ended,
            "rss_mb": self._mb,
        }


@contextmanager
def _rig(port: int, folder: Path, keys: Path | None) -> Iterator[subprocess.Popen[bytes]]:
    words = [*RIG.split(), "--spool", str(folder / "spool"), "--bind", f"tcp://{HOST}:{port}"]
    words += [] if keys is None else ["--keys", str(keys)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "device", *words], stdout=log, stderr=log)
    try:
        yield process
    except Failed as error:
        raise Failed(f"{error}; the rig said: {(folder / 'log').read_text(errors='replace')[-500:]}") from error
    finally:
        process.kill()
        process.wait()


def _keys(folder: Path) -> Path:
    trust(folder, NAME, make_keys(folder))
    return folder
