"""The learner as a service: it drives `learn` on a source, and between two steps it probes, commits and reports.

The loop decides what is trained; this shell decides when to probe, when to commit, and when to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from learner.errors import Diverged
from learner.loop import Learner, StepReport, Waiting, learn
from learner.probes.control_sets import ControlSet
from learner.report.album import make_album
from learner.runs.commit import Committer
from learner.runs.folder import RunDirectory
from learner.service.observers import Observers
from learner.service.prober import Prober
from learner.service.status import RunStatus
from learner.service.step_log import StepLog
from learner.service.summary import Summary, pace, summarise
from learner.service.timing import Limits, Rhythm, Times
from learner.weights.publish import Outlet
from stream.errors import StreamError
from stream.pair import EncodedPair
from stream.source import Source


class Service:
    """One run: a learner, its source, its run directory, and everything that happens between two steps.

    clock: seconds, monotonic. stop: asked between two events; True ends the run.
    """

    def __init__(
        self,
        learner: Learner,
        source: Source,
        directory: RunDirectory,
        controls: Sequence[ControlSet],
        *,
        committer: Committer,
        outlet: Outlet,
        observers: Observers,
        limits: Limits,
        clock: Callable[[], float],
        stop: Callable[[], bool],
    ) -> None:
        self._learner = learner
        self._source = source
        self._directory = directory
        self._committer = committer
        self._outlet = outlet
        self._observers = observers
        self._limits = limits
        self._clock = clock
        self._stop = stop
        self._step_log = StepLog(directory)
        self._times = Times(clock())
        self._prober = Prober(
            learner, directory, controls, observers=observers, outlet=outlet, stop=stop, elapsed_s=self._elapsed_s
        )
        self._received_before, self._samples_before = learner.received, learner.samples

    def run(self) -> Summary:
        """Train until a limit, the end of the source or `stop`; then commit, probe, export, and return the summary.

        Raises Diverged or StreamError after a commit, Diverged with the last good weights; OSError where the disk
        refuses a pair or a commit.
        """
        self._resume()
        try:
            self._train()
        except (Diverged, StreamError):  # raised between two steps; any other error could leave half a step
            self._finish()
            raise
        self._finish()
        self._observers.screen.say(f"stopped at step {self._learner.steps}, which is committed")
        self._prober.probe()
        return self._conclude()

    def _resume(self) -> None:
        if self._learner.received:
            self._observers.screen.say(f"resumed at step {self._learner.steps}")
        # Before the first step all probes run again: one of them may have been interrupted.
        self._directory.rewind(self._learner.steps or -1)
        lines = self._directory.lines("steps")
        self._times = Times(self._clock(), lines[-1]["seconds"] if lines else 0.0)
        self._prober.resume()

    def _train(self) -> None:
        learner = self._learner
        probing = Rhythm(self._limits.probe_every_s, step=learner.steps, now_s=self._clock())
        committing = Rhythm(self._limits.commit_every_s, step=learner.steps, now_s=self._clock())
        events = learn(learner, self._source, clock=self._clock, keep=self._keep)
        while not self._stop() and not self._limits.are_reached(learner.steps, self._times.trained_s(self._clock())):
            event = next(events, None)
            if event is None:
                return
            self._observe(event)
            self._committer.settle()
            if probing.is_due(learner.steps, self._clock()):
                self._interrupt(probing, self._prober.probe)
            if committing.is_due(learner.steps, self._clock()) and not self._committer.in_flight:
                self._interrupt(committing, self._committer.begin)

    def _interrupt(self, rhythm: Rhythm, action: Callable[[], None]) -> None:
        began_s = self._clock()
        action()
        rhythm.interrupted(self._learner.steps, began_s, self._clock())

    def _keep(self, key: int, pair: EncodedPair) -> None:
        self._committer.keep(key, pair, self._waits_for_room)
        self._observers.live.received(pair)

    def _waits_for_room(self) -> bool:
        """Return whether to go on waiting while the store takes no more pairs."""
        self._observers.working("the disk of the run is full: waiting for room")
        return not self._stop()

    def _observe(self, event: StepReport | Waiting) -> None:
        if self._learner.received > self._received_before:
            self._times.pair_received(self._clock())
        status = self._status()
        if isinstance(event, Waiting):
            self._observers.waiting(event, status)
            return
        self._times.add(event)
        self._step_log.write(event, self._elapsed_s())
        self._observers.step(
            event,
            status,
            batch_size=self._learner.config.pacing.batch_size,
            stalest_steps=self._learner.memory.ranking.stalest_steps(),
        )

    def _status(self) -> RunStatus:
        now_s = self._clock()
        return RunStatus(
            now_s=now_s,
            started_s=self._times.started_s,
            trained_s=self._times.trained_s(now_s) or 0.0,
            limit_s=self._limits.train_s,
            received=self._learner.received,
            stats=self._source.stats(),
            backlog=self._source.backlog(),
        )

    def _elapsed_s(self) -> float:
        return self._times.elapsed_s(self._clock())

    def _finish(self) -> None:
        """Make the last commit and close the source: a device that ends must not wait for our report."""
        self._observers.stopping(f"committing step {self._learner.steps}")
        self._committer.finish()
        self._source.close()

    def _conclude(self) -> Summary:
        learner, directory = self._learner, self._directory
        rotation = self._prober.rotations()
        directory.write_album(make_album(learner))
        summary = summarise(learner, directory.lines("steps"), directory.lines("probes"), self._source.stats())
        summary |= pace(self._times, learner.samples - self._samples_before, self._clock())
        summary["rotation"] = rotation
        self._observers.screen.doing("writing pictures and weights")
        if warning := self._outlet.conclude(summary):
            self._observers.screen.say(warning)
        directory.write_summary(summary)
        return summary
