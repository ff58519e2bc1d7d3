"""Reports the events of a run to the screen, the live page, the service manager and Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from learner.loop import Learner, StepReport, Waiting
from learner.metrics import LearnerMetrics
from learner.page.live import Live
from learner.runs.titles import ACCURACIES, KINDS, stream_words
from learner.service.screen import Screen
from learner.service.status import RunStatus
from learner.trainer import Judgement
from stream.host.systemd import Supervisor
from stream.source import Source

log = logging.getLogger(__name__)


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
        self.metrics.waiting(event)
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

    def judged(self, found: Judgement | None, learner: Learner) -> None:
        """Report how the networks compare with the start, and that they went back."""
        if found is None:
            return
        self.metrics.judged(found)
        if found.goes_back:
            guard, good = learner.trainer.forgetting, learner.trainer.fine or {}
            log.error(
                "forgot step=%d to=%s rollbacks=%d: %s; the learning rate is now %g of that of the schedule",
                *(learner.steps, good.get("step"), guard.rollbacks, found, guard.rate_factor),
            )
        elif found.is_worse:
            log.warning("worse step=%d: %s", learner.steps, found)

    def probed(self, step: int, control: str, encoder: str, result: Mapping[str, Any]) -> None:
        """Report the result of a probe."""
        accuracies = {kind: result[kind] for kind in ACCURACIES}
        self.metrics.probed(step, control, encoder, accuracies, result["rankme"])
        self.screen.probed(step, control, encoder, result)

    def probed_stream(self, line: Mapping[str, Any]) -> None:
        """Report a line of the stream's probe."""
        self.metrics.probed_stream(line["encoder"], {kind: line[kind] for kind in KINDS})
        self.metrics.probed_stream("start", {kind: line[f"{kind}_start"] for kind in KINDS})
        if any(line[kind] is not None for kind in KINDS):
            self.screen.log(f"probe  step {line['step']}  the stream  {line['encoder']}  {stream_words(line)}")
