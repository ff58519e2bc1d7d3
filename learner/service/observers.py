"""Reports the events of a run to the screen, the live page, the service manager and Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from learner.loop import StepReport, Waiting
from learner.metrics import LearnerMetrics
from learner.page.live import Live
from learner.runs.titles import ACCURACIES
from learner.service.screen import Screen
from learner.service.status import RunStatus
from stream.host.systemd import Supervisor
from stream.source import Source


@dataclass(frozen=True, kw_only=True)
class Observers:
    """Passes each event of a run on to all who watch it."""

    source: Source
    screen: Screen
    live: Live
    supervisor: Supervisor
    metrics: LearnerMetrics

    def alive(self, describe: Callable[[], str]) -> None:
        """Report that the training thread is alive; `describe` is called only while somebody reads what it returns."""
        self.supervisor.alive(describe)
        self.live.alive(describe, self.source.stats, self.source.backlog)

    def working(self, text: str) -> None:
        """Report work that takes a while, in place of steps."""
        self.alive(lambda: text)
        self.screen.show(text)

    def stopping(self, text: str) -> None:
        """Report that the run takes no more pairs."""
        self.supervisor.stopping()
        self.live.stopping(text)
        self.screen.show(text)

    def waiting(self, event: Waiting, status: RunStatus) -> None:
        """Report that no step is due."""
        self.alive(lambda: status.describe(event))
        self.live.observe(event)
        self.screen.waiting(event, status.missing(event))

    def step(self, report: StepReport, status: RunStatus) -> None:
        """Report a training step."""
        learner = self.live.learner
        batch_size = learner.config.pacing.batch_size
        self.alive(lambda: status.describe(report))
        self.live.observe(report)
        self.metrics.step(report, batch_size)
        self.metrics.stalest.set(learner.memory.ranking.stalest_steps())
        if report.fresh and status.stats is not None:
            self.metrics.fresh_trained(report.fresh, status.stats.devices)
        self.screen.step(report, batch_size, str(status))

    def probed(self, step: int, control: str, encoder: str, result: Mapping[str, Any]) -> None:
        """Report the result of a probe."""
        accuracies = {kind: result[kind] for kind in ACCURACIES}
        self.metrics.probed(step, control, encoder, accuracies, result["rankme"])
        self.screen.probed(step, control, encoder, result)
