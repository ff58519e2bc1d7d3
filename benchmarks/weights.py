"""How soon after a commit has a robot its weights, and what does handing them out take?

A learner's own committer, export and HTTP server; the robot is a thread that asks for the teacher by its ETag every `poll_s`
seconds, over the loopback. Between two commits the weights are moved a little, and the moment is drawn by chance, since a robot
does not ask in step with commits. The cost is the CPU time of the thread that exports, which is not the one that trains.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
import tyro
from rich.console import Console

from buffer.store import Store
from learner.config import PRESETS
from learner.errors import SettingsError
from learner.loop import Learner
from learner.memory.config import MemoryConfig
from learner.metrics import LearnerMetrics
from learner.page import weights
from learner.page.access import Access
from learner.page.app import app_for
from learner.page.server import served
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.commit import Committer
from learner.runs.folder import RunDirectory
from learner.weights.latest import LatestWeights
from stream.source import IteratorSource

REACH_S = 5.0
"""In which a robot is to have the weights of a commit."""
WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class WeightsSettings:
    """Commit, and see when a robot has the weights."""

    preset: str = "cpu"
    """Of the learner: cpu, or babyagent for DeiT-S."""
    rounds: int = 7
    """Commits."""
    poll_s: float = 2.0
    """Between two questions of the robot."""
    port: int = 9633
    """Of the loopback, to serve on."""
    seed: int = 0
    """Of the moments of the commits."""
    json: bool = False
    """One JSON object instead of words."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise SettingsError(f"--preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.rounds < 1 or not 0 < self.poll_s <= WAIT_S:
            raise SettingsError(f"--rounds must be at least 1 and --poll-s above 0 to {WAIT_S:g}, got {self}")


class Robot:
    """Asks for new weights in a thread of its own. arrivals_s: when each of them had come, on the monotonic clock."""

    def __init__(self, url: str, poll_s: float) -> None:
        self.arrivals_s: list[float] = []
        self._url = url
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="robot", daemon=True)
        self._thread.start()

    def wait_for(self, count: int) -> None:
        """Until so many weights have come. Raises TimeoutError after WAIT_S."""
        with self._came:
            if not self._came.wait_for(lambda: len(self.arrivals_s) >= count, WAIT_S):
                raise TimeoutError(f"the robot has had no new weights for {WAIT_S:g} s")

    def close(self) -> None:
        """Stop asking."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        tag = ""
        while not self._stop.wait(self._poll_s):
            try:
                with urlopen(
                    Request(self._url, headers={"If-None-Match": tag} if tag else {}), timeout=WAIT_S
                ) as answer:
                    answer.read()
                    tag = answer.headers["ETag"]
            except HTTPError:  # 404 before the first commit, then 304
                continue
            with self._came:
                self.arrivals_s.append(time.monotonic())
                self._came.notify_all()


@dataclass
class Handouts:
    """When each commit had become durable, and what exporting it took of its thread."""

    latest_weights: LatestWeights
    durable_s: list[float]
    cpu_s: list[float]

    def publish(self, state: Mapping[str, Any]) -> None:
        """In place of `LatestWeights.export`, which it calls."""
        self.durable_s.append(time.monotonic())
        before_s = time.thread_time()
        self.latest_weights.export(state)
        self.cpu_s.append(time.thread_time() - before_s)


@contextmanager
def committing(settings: WeightsSettings, folder: Path) -> Iterator[tuple[Learner, Committer, Handouts]]:
    """A learner that has received nothing yet, and serves what it exports."""
    config = replace(PRESETS[settings.preset], memory=MemoryConfig(capacity=256, fresh_capacity=256, canvas=(24, 32)))
    learner, directory, metrics = Learner(config, torch.device("cpu")), RunDirectory(folder, config), LearnerMetrics()
    handouts = Handouts(LatestWeights(learner, directory.export, metrics=metrics), [], [])
    access = Access("127.0.0.1", settings.port, None)
    with (
        served(app_for(access, weights.routes(directory.export)), access),
        Store(directory.store) as store,
        Committer(
            learner,
            IteratorSource(iter(())),
            store,
            CheckpointFolder(directory.checkpoints),
            clock=time.monotonic,
            publish=handouts.publish,
        ) as committer,
    ):
        yield learner, committer, handouts


def main(arguments: Sequence[str]) -> int:
    """Measure; returns 1 where a robot waited longer than REACH_S."""
    settings = tyro.cli(WeightsSettings, args=list(arguments), prog="python -m benchmarks weights")
    console = Console(stderr=True, highlight=False)
    chance = random.Random(settings.seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        committing(settings, Path(folder) / "run") as (learner, committer, handouts),
    ):
        robot = Robot(f"http://127.0.0.1:{settings.port}/weights/teacher.safetensors", settings.poll_s)
        for number in range(1, settings.rounds + 1):
            time.sleep(chance.uniform(0, settings.poll_s))
            _move(learner)
            committer.finish()
            robot.wait_for(number)
            console.print(
                f"commit {number} of {settings.rounds}: {robot.arrivals_s[-1] - handouts.durable_s[-1]:.2f} s"
            )
        robot.close()
        size = (Path(folder) / "run" / "export" / "teacher.safetensors").stat().st_size
    waits = [came - durable for came, durable in zip(robot.arrivals_s, handouts.durable_s, strict=True)]
    return _tell(settings, waits, handouts.cpu_s, size)


def _move(learner: Learner) -> None:
    """Other weights, which no training step was taken for."""
    with torch.no_grad():
        for encoder in learner.objective.encoders().values():
            next(iter(encoder.backbone.parameters())).add_(0.001)


def _tell(settings: WeightsSettings, waits: Sequence[float], cpu_s: Sequence[float], size: int) -> int:
    found = {
        "preset": settings.preset,
        "bytes": size,
        "commit_to_robot_s": {"median": round(statistics.median(waits), 3), "most": round(max(waits), 3)},
        "export_cpu_s": round(statistics.median(cpu_s), 4),
        "reach_s": REACH_S,
    }
    if settings.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.write(
            f"{settings.preset}: {size / 1e6:.1f} MB a network; from the durable commit until the robot had it, asking every "
            f"{settings.poll_s:g} s: median {statistics.median(waits):.2f} s, most {max(waits):.2f} s (reach {REACH_S:g} s); "
            f"the export took {statistics.median(cpu_s):.3f} s of CPU for both networks, beside training\n"
        )
    return int(max(waits) > REACH_S)
