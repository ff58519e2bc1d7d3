"""A run of the service as tests want it: in one process, over a folder, without a command line."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from committing import Acknowledging
from rich.console import Console
from tiny_learner import tiny_learner

from buffer.store import Store
from learner.loop import Learner
from learner.metrics import LearnerMetrics
from learner.page.live import Live
from learner.probes.control_sets import ControlSet
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.commit import Committer
from learner.runs.folder import RunDirectory
from learner.runs.restore import restore
from learner.service.observers import Observers
from learner.service.screen import Screen
from learner.service.service import Service
from learner.service.timing import Limits
from learner.weights.latest import LatestWeights
from stream.host.systemd import Supervisor
from stream.pair import EncodedPair
from stream.source import Source


class Run:
    """A service over the folder `path`, with what it needs, behind what the last one committed there."""

    def __init__(
        self,
        path: Path,
        pairs: list[EncodedPair] | Source,
        controls: list[ControlSet],
        *,
        learner: Learner | None = None,
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        hurry: Callable[[], bool] = lambda: False,
        **limits: Any,
    ) -> None:
        self.pairs = pairs
        self.controls = controls
        self.learner = tiny_learner() if learner is None else learner
        self.limits = Limits(**limits)
        self.stop = stop
        self.hurry = hurry
        self.clock = clock
        self.text = io.StringIO()
        self.directory = RunDirectory(path, self.learner.config)
        self.live = Live(self.learner, clock)

    def run(self) -> dict[str, Any]:
        metrics = LearnerMetrics()
        with Store(self.directory.store) as store:
            checkpoints = CheckpointFolder(self.directory.checkpoints)
            cursor = restore(self.learner, store, checkpoints, self.directory.require_new)
            source = Acknowledging(self.pairs, cursor) if isinstance(self.pairs, list) else self.pairs
            clock = self.clock
            latest_weights = LatestWeights(self.learner, self.directory.export, metrics=metrics)
            with closing(
                Committer(self.learner, source, store, checkpoints, clock=clock, publish=latest_weights.export)
            ) as committer:
                service = Service(
                    learner=self.learner,
                    source=source,
                    directory=self.directory,
                    controls=self.controls,
                    committer=committer,
                    latest_weights=latest_weights,
                    limits=self.limits,
                    observers=Observers(
                        source=source,
                        screen=Screen(Console(file=self.text), clock=clock),
                        live=self.live,
                        supervisor=Supervisor({}, clock),
                        metrics=metrics,
                    ),
                    clock=clock,
                    stop=self.stop,
                    hurry=self.hurry,
                )
                return service.run()
