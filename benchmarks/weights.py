"""How soon after a commit does a robot have the new weights, and what does the export cost?

A learner's own committer, export and HTTP server are used. The robot requests the teacher's weights with its ETag every `poll_s`
seconds, over the loopback. Between two commits the weights are changed a little. The first request after a commit is at a random
moment, because the robot does not know when commits happen. The cost is the CPU time of the thread that exports, which is not the
training thread.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch

from benchmarks.shared.bench import Bench, BenchSettings, Goal, counted
from benchmarks.shared.bounds import Count, Within
from benchmarks.shared.machine import HOST
from benchmarks.shared.recipes import PRESETS, Preset
from buffer.store import Store
from learner.errors import Failed
from learner.http import weights
from learner.http.access import Access
from learner.http.app import app_for
from learner.http.server import served
from learner.loop import Learner
from learner.memory.config import MemoryConfig
from learner.metrics import LearnerMetrics
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.commit import Committer
from learner.runs.folder import RunDirectory
from learner.weights.latest import LatestWeights
from stream.source import IteratorSource

MAX_DELAY_S = 5.0
"""Longest time until a robot should have the weights of a commit."""
WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class WeightsSettings(BenchSettings):
    """Commit several times, and measure when a robot has the weights."""

    preset: Preset = "cpu"
    """Settings of the learner: cpu (small), gpu (DeiT-S), or the name of an objective at the size of gpu."""
    rounds: Count = 7
    """Number of commits."""
    poll_s: Annotated[float, Within(0, WAIT_S, above=True)] = 2.0
    """Seconds between two requests of the robot."""
    port: int = 9633
    """The port of the loopback to serve on."""
    seed: int = 0
    """Seed of the times of the commits."""


@dataclass
class TimedExport:
    """Exports as the service does, and records when each commit became durable and how much CPU time its export took."""

    weights: LatestWeights
    durable_s: list[float]
    cpu_s: list[float]

    def publish(self, state: Mapping[str, Any]) -> None:
        """Export the networks of a committed state."""
        self.durable_s.append(time.monotonic())
        before_s = time.thread_time()
        self.weights.export(state)
        self.cpu_s.append(time.thread_time() - before_s)


@contextmanager
def committing(settings: WeightsSettings, folder: Path) -> Iterator[tuple[Learner, Committer, TimedExport]]:
    """Give a learner that has received no pair yet, with its committer and exporter, and serve the exported weights by HTTP."""
    config = replace(PRESETS[settings.preset], memory=MemoryConfig(capacity=256, fresh_capacity=256, canvas=(24, 32)))
    learner, directory = Learner(config, torch.device("cpu")), RunDirectory(folder, config)
    export = TimedExport(LatestWeights(learner, directory.export, metrics=LearnerMetrics()), [], [])
    access, source = Access(HOST, settings.port, None), IteratorSource(iter(()))
    checkpoints = CheckpointFolder(directory.checkpoints)
    with (
        served(app_for(access, weights.routes(directory.export)), access),
        Store(directory.store) as store,
        closing(
            Committer(learner, source, store, checkpoints, clock=time.monotonic, publish=export.publish)
        ) as committer,
    ):
        yield learner, committer, export


def measure(settings: WeightsSettings) -> dict[str, Any]:
    """Return the delays from the durable commit to the robot, and the CPU time of the export."""
    chance, arrivals_s, tag = random.Random(settings.seed), [], ""
    url = f"http://{HOST}:{settings.port}/weights/teacher.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        with committing(settings, Path(folder) / "run") as (learner, committer, export):
            for _ in counted(range(settings.rounds), "commit"):
                _move(learner)
                committer.begin()
                time.sleep(chance.uniform(0, settings.poll_s))
                tag = _wait_for_weights(url, tag, settings.poll_s)
                arrivals_s.append(time.monotonic())
                committer.settle(wait=True)
        size = (Path(folder) / "run" / "export" / "teacher.safetensors").stat().st_size
    delays_s = [arrived_s - durable_s for arrived_s, durable_s in zip(arrivals_s, export.durable_s, strict=True)]
    return {
        "preset": settings.preset,
        "bytes": size,
        "commit_to_robot_s": {"median": round(statistics.median(delays_s), 3), "most": round(max(delays_s), 3)},
        "export_cpu_s": round(statistics.median(export.cpu_s), 4),
        "reach_s": MAX_DELAY_S,
    }


def _wait_for_weights(url: str, tag: str, poll_s: float) -> str:
    """Request the weights until they are not those with this ETag; return the new ETag. Raises Failed."""
    deadline_s = time.monotonic() + WAIT_S
    request = Request(url, headers={"If-None-Match": tag} if tag else {})
    while time.monotonic() < deadline_s:
        with suppress(HTTPError), urlopen(request, timeout=WAIT_S) as response:  # 404 or 304 while there are none
            response.read()
            return str(response.headers["ETag"])
        time.sleep(poll_s)
    raise Failed(f"the robot has had no new weights for {WAIT_S:g} s")


def render(settings: WeightsSettings, figures: dict[str, Any]) -> Sequence[str]:
    """Return one sentence about the figures."""
    delay = figures["commit_to_robot_s"]
    return [
        f"{settings.preset}: {figures['bytes'] / 1e6:.1f} MB a network; from the durable commit until the robot had it, asking "
        f"every {settings.poll_s:g} s: median {delay['median']:.2f} s, longest {delay['most']:.2f} s; the export took "
        f"{figures['export_cpu_s']:.3f} s of CPU for both networks, beside training\n"
    ]


def goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """Yield the goal: the robot never waits long."""
    yield Goal("longest delay, s", figures["commit_to_robot_s"]["most"], MAX_DELAY_S)


COMMAND = Bench(WeightsSettings, measure, render, goals)


def _move(learner: Learner) -> None:
    """Change the weights a little, without a training step."""
    with torch.no_grad():
        for encoder in learner.objective.encoders().values():
            next(iter(encoder.backbone.parameters())).add_(0.001)
