"""Runs a learner on a source, and between two steps probes, commits and reports.

The loop decides what is trained; this shell decides when to probe, when to commit, and when to stop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from buffer.patience import lacks_descriptors
from learner.errors import Diverged
from learner.loop import Learner, StepReport, Waiting, learn
from learner.probes.control_sets import ControlSet
from learner.report.album import make_album
from learner.runs.commit import Committer
from learner.runs.folder import RunDirectory
from learner.runs.start import START_WEIGHTS, read_start
from learner.service.observers import Observers
from learner.service.prober import Prober
from learner.service.status import RunStatus
from learner.service.step_log import StepLog
from learner.service.stream_probe import StreamProbe
from learner.service.summary import Summary, pace, streams_of, summarise, too_little, too_short, why_no_step
from learner.service.timing import ROTATED_S, Ending, Limits, Rhythm, Times
from learner.weights.latest import LatestWeights
from stream.errors import StreamError
from stream.pair import EncodedPair
from stream.source import Source

log = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class Service:
    """One run: a learner, its source, its run directory, and everything that happens between two steps."""

    learner: Learner
    source: Source
    directory: RunDirectory
    controls: Sequence[ControlSet]
    committer: Committer
    latest_weights: LatestWeights
    observers: Observers
    limits: Limits
    clock: Callable[[], float]
    """Seconds, monotonic."""
    stop: Callable[[], bool]
    """Called between two events; True ends the run."""
    hurry: Callable[[], bool] = lambda: False
    """True leaves out the last probe and the pictures."""
    optional: Callable[[Callable[[], None]], Any] = lambda work: work()
    """Does what `hurry` may interrupt in the middle (`stream.host.program.Stop.optional`)."""

    def __post_init__(self) -> None:
        self._step_log = StepLog(self.directory)
        self._source_ended = False
        self._streams: list[str] = []
        self._times = Times(self.clock())
        self._received_before, self._samples_before = self.learner.received, self.learner.samples
        self._ending = Ending(self.stop, self.hurry, self.clock)
        self._prober = Prober(
            learner=self.learner,
            directory=self.directory,
            controls=self.controls,
            stream=StreamProbe(learner=self.learner, start=self.directory.path / START_WEIGHTS),
            observers=self.observers,
            latest_weights=self.latest_weights,
            stop=self.stop,
            hurry=self._ending.is_over,
            elapsed_s=self._elapsed_s,
            judges_at_end=not self.limits.probe_every_steps,
        )

    def run(self) -> Summary:
        """Train until a limit, the end of the source or `stop`; then commit, probe, export, and return the summary.

        Raises Diverged or StreamError after a commit, Diverged with the last good weights; OSError if the disk
        refuses a pair or a commit.
        """
        self._resume()
        try:
            self._train()
        except (Diverged, StreamError):  # raised between two steps; any other error could leave half a step
            self._finish()
            raise
        self._finish()
        self.observers.screen.log(f"{self._why_ended()} at step {self.learner.steps}, which is committed")
        self._pause("probes", self._probe_at_end)
        return self._conclude()

    def _resume(self) -> None:
        if self.learner.received:
            self.observers.screen.log(f"resumed at step {self.learner.steps}")
        elif not self.directory.is_new:
            self.observers.screen.log("no commit yet of what an earlier process has learned here: the run starts over")
        self.committer.begin_run(self._wait_for_disk)
        # Before the first step all probes run again: one of them may have been interrupted.
        self.directory.rewind(self.learner.steps or -1)
        lines = self.directory.lines("steps")
        self._times = Times(self.clock() - (lines[-1]["seconds"] if lines else 0.0))
        self._pause("probes", self._prober.resume)
        if self._lacks_judgement():
            self._pause("probes", self._prober.probe)

    def _lacks_judgement(self) -> bool:
        """Return whether the run was stopped in a probe at its step: one that was not stopped has judged it before the next."""
        judged, every, step = (
            self.learner.trainer.forgetting.judged_step,
            self.limits.probe_every_steps,
            self.learner.steps,
        )
        return bool(every and judged is not None and judged < step and step % every == 0)

    def _probe_at_end(self) -> None:
        """Probe for the last time; what the guard against forgetting makes of it belongs to the run, and into a commit."""
        if self._prober.conclude():
            self.committer.amend()

    def _why_ended(self) -> str:
        if self._source_ended:
            return "the source has ended"
        return "stopped by hand" if self.stop() else "stopped by its limit"

    def _train(self) -> None:
        learner = self.learner
        steps = self.limits.probe_every_steps
        probing = Rhythm(self.limits.probe_every_s, step=learner.steps, now_s=self.clock(), every_steps=steps)
        committing = Rhythm(self.limits.commit_every_s, step=learner.steps, now_s=self.clock())
        events = learn(learner, self.source, clock=self.clock, keep=self._keep)
        while not self.stop() and not self.limits.are_reached(learner.steps, self._times.trained_s(self.clock())):
            event = next(events, None)
            if event is None:
                self._source_ended = True
                return
            self._observe(event)
            self._commit(self.committer.settle)
            if probing.is_due(learner.steps, self.clock()):
                self._interrupt(probing, "probes", self._prober.probe)
            if committing.is_due(learner.steps, self.clock()) and not self.committer.in_flight:
                self._interrupt(committing, "commits", partial(self._commit, self.committer.begin))

    def _commit(self, action: Callable[[], None]) -> None:
        """Do this part of a commit; if there is no descriptor left, the next commit tries again."""
        try:
            action()
        except OSError as error:
            if not lacks_descriptors(error):
                raise
            log.warning("%s; the next commit tries again", error)

    def _interrupt(self, rhythm: Rhythm, what: str, action: Callable[[], None]) -> None:
        began_s = self.clock()
        self._pause(what, action)
        rhythm.interrupted(self.learner.steps, began_s, self.clock())

    def _pause(self, what: str, action: Callable[[], None]) -> None:
        """Do something that is not training, and count its time."""
        began_s = self.clock()
        action()
        self._times.pause(what, self.clock() - began_s)

    def _keep(self, key: int, pair: EncodedPair) -> None:
        self.committer.keep(key, pair, self._wait_for_disk)
        self.observers.live.received(pair)

    def _wait_for_disk(self) -> bool:
        """Return whether to go on waiting while the disk is full or slow."""
        self.observers.working("waiting for the disk of the run")
        return not self.stop()

    def _observe(self, event: StepReport | Waiting) -> None:
        if self.learner.received > self._received_before:
            self._times.pair_received(self.clock())
        status = self._status()
        if isinstance(event, Waiting):
            self.observers.waiting(event, status)
            return
        self._times.add(event)
        self._step_log.write(event, self._elapsed_s())
        self.observers.step(event, status)

    def _status(self) -> RunStatus:
        now_s = self.clock()
        return RunStatus(
            now_s=now_s,
            started_s=self._times.started_s,
            trained_s=self._times.trained_s(now_s) or 0.0,
            limit_s=self.limits.train_s,
            received=self.learner.received,
            stats=self.source.stats(),
            backlog=self.source.backlog(),
        )

    def _elapsed_s(self) -> float:
        return self._times.elapsed_s(self.clock())

    def _finish(self) -> None:
        """Make the last commit and close the source, so that a device that ends does not wait for the report."""
        self.observers.stopping(f"committing step {self.learner.steps}")
        self._pause("commits", self.committer.finish)
        self._streams = streams_of(self.source.cursor())
        self.source.close()

    def _conclude(self) -> Summary:
        learner, directory = self.learner, self.directory
        rotation: Summary = {}
        until_s = self.clock() + ROTATED_S

        def is_over() -> bool:
            return self.stop() or self.clock() >= until_s

        if learner.steps:
            self._pause("rotated images", lambda: rotation.update(self._prober.rotations(is_over)))
        if learner.steps and not self._ending.is_over():
            self.observers.screen.log("writing pictures, weights and report")
            self._pause("pictures", lambda: self.optional(lambda: directory.write_album(make_album(learner))))
        summary = summarise(
            learner,
            directory.lines("steps"),
            directory.lines("probes"),
            self.source.stats(),
            read_start(directory.path),
            directory.lines("holdout"),
        )
        summary |= pace(self._times, learner.samples - self._samples_before, self.clock())
        summary["rotation"] = rotation
        asked = self.stop() or self.limits.max_steps == 0
        summary["problem"] = "" if asked else why_no_step(learner)
        summary["warning"] = too_little(learner) or too_short(learner)
        summary["streams"] = self._streams
        if warning := self.latest_weights.conclude(summary):
            self.observers.screen.log(warning)
        directory.write_summary(summary)
        return summary
