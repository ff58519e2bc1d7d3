"""A learner beside a rig: drives `learn`, and between its steps probes, commits, measures and shows.

The loop decides what is trained; this shell decides when to look, when to write, and when to stop.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from learner.errors import Diverged, SettingsError
from learner.loop import Learner, StepReport, Waiting, learn
from learner.metrics import LearnerMetrics
from learner.networks.encoder import Encoder
from learner.page.live import Live
from learner.probes.control_sets import ControlSet
from learner.probes.probe import run_probe, run_rotations
from learner.report.album import take_album
from learner.runs.commit import Committer
from learner.runs.folder import RunDirectory
from learner.service.screen import Screen
from learner.weights.publish import Outlet
from stream.errors import StreamError
from stream.host.systemd import Supervisor
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair
from stream.source import Source

log = logging.getLogger(__name__)

Summary = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When the service looks, writes and stops; times in seconds of the clock it is given."""

    train_s: float | None = None
    """Stop after this long, counted from the first pair this process receives; None trains until it is stopped."""
    max_steps: int | None = None
    """Stop at this step; None has no such end."""
    probe_every_s: float = 60.0
    """Least time between probes, which take at most 5 % of the time; there is always one at the start and one at the end."""
    commit_every_s: float = 60.0
    """Least time between commits, for which training stops 5 % of the time at most; there is always one at the end."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not value >= 0:  # NaN neither
                raise SettingsError(f"--{name.replace('_', '-')} must be 0 or more, got {value}")


SILENT_S = 15.0
"""A device that is there sends at least every 10 s (its longest silence): later it is named as silent."""
PAUSE_SHARE = 0.05
"""Largest share of the time that probing, and that committing, may take from training."""


class Rhythm:
    """When to do again what interrupts training: every `every_s`, where it has moved on, and within PAUSE_SHARE."""

    def __init__(self, every_s: float, clock: Callable[[], float], step: int) -> None:
        self._every_s = every_s
        self._clock = clock
        self._step = step
        self._next_s = clock() + every_s

    def is_due(self, step: int) -> bool:
        """Whether the time has come and there were steps since; a learner that waits is as good a moment as any."""
        return step != self._step and self._clock() >= self._next_s

    def timed(self, step: int, action: Callable[[], object]) -> None:
        """Do it now; the longer it takes, the longer until the next time."""
        started_s = self._clock()
        action()
        now_s = self._clock()
        self._step, self._next_s = step, now_s + max(self._every_s, (now_s - started_s) / PAUSE_SHARE)


class Service:
    """One run: a learner, its source, its folder, and what watches them."""

    def __init__(
        self,
        learner: Learner,
        source: Source,
        directory: RunDirectory,
        controls: Sequence[ControlSet],
        *,
        committer: Committer,
        outlet: Outlet,
        limits: Limits,
        metrics: LearnerMetrics,
        screen: Screen,
        supervisor: Supervisor,
        live: Live,
        clock: Callable[[], float],
        stop: Callable[[], bool],
    ) -> None:
        self.learner = learner
        self.source = source
        self.directory = directory
        self.controls = controls
        self.committer = committer
        self.outlet = outlet
        self.limits = limits
        self.metrics = metrics
        self.screen = screen
        self.supervisor = supervisor
        self.live = live
        self._clock = clock
        self._stop = stop
        self._busy_s = 0.0
        self._waited_s = 0.0
        self._unnoted = 0
        self._probed: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._started_s = clock()
        self._first_pair_s: float | None = None
        self._received_before = 0
        self._samples_before = 0

    def run(self) -> Summary:
        """Train until a limit, the end of the source or `stop`; commit, conclude, and return the summary.

        Raises Diverged or StreamError after a commit, Diverged with the last good weights; OSError where the disk
        refuses a pair or a commit.
        """
        self._resume()
        measured = {line["set"] for line in self.directory.lines("probes")}
        self.probe([control for control in self.controls if control.name not in measured])
        try:
            self._train()
        except (Diverged, StreamError):  # between two steps; anything else could leave half a step
            self._finish()
            raise
        self._finish()
        self.screen.say(f"stopped at step {self.learner.steps}, which is committed")
        self.probe(self.controls)
        rotation = self._turned()
        return self._conclude(rotation)

    def _train(self) -> None:
        probing = Rhythm(self.limits.probe_every_s, self._clock, self.learner.steps)
        committing = Rhythm(self.limits.commit_every_s, self._clock, self.learner.steps)
        events = learn(self.learner, self.source, clock=self._clock, keep=self._keep)
        while not self._stop() and not self._at_limit():
            event = next(events, None)
            if event is None:
                return
            self._observe(event)
            self.committer.settle()
            if probing.is_due(self.learner.steps):
                probing.timed(self.learner.steps, lambda: self.probe(self.controls))
            if committing.is_due(self.learner.steps) and not self.committer.in_flight:
                committing.timed(self.learner.steps, self.committer.begin)

    def _keep(self, key: int, pair: EncodedPair) -> None:
        self.committer.keep(key, pair, self._goes_on_waiting)
        self.live.received(pair)

    def _goes_on_waiting(self) -> bool:
        """While the store takes no more pairs."""
        self._alive(lambda: "the disk is full: waiting for room")
        self.screen.doing("the disk of the run is full: waiting for room")
        return not self._stop()

    def _finish(self) -> None:
        """The last commit; a device that ends waits for its acknowledgement, not for the report."""
        self.supervisor.stopping()
        self.live.pulse.stopping()
        self.screen.doing(f"committing step {self.learner.steps}")
        self.committer.finish()
        self.source.close()

    def probe(self, controls: Sequence[ControlSet]) -> None:
        """Measure every encoder on these control sets, now; `stop` ends it between two batches. One that fails is said."""
        self._each(controls, self._measure)

    def _turned(self) -> dict[str, dict[str, Any]]:
        """Accuracies on turned images by set and encoder, of those that were measured before a `stop`."""
        table: dict[str, dict[str, Any]] = {}

        def measure(control: ControlSet, name: str, encoder: Encoder) -> None:
            with self._watched(encoder, control):
                found = run_rotations(encoder, control, device=self.learner.device)
            table.setdefault(control.name, {})[name] = found

        self._each(self.controls, measure)
        return table

    def _each(self, controls: Sequence[ControlSet], measure: Callable[[ControlSet, str, Encoder], None]) -> None:
        for control in controls:
            for name, encoder in self.learner.objective.encoders().items():
                self.screen.doing(f"probing the {name} on {control.name}")
                try:
                    measure(control, name, encoder)
                except _Stopped:
                    return
                except Exception as error:  # whatever it is: training does not depend on a probe
                    self.metrics.failed_probes.inc()
                    reason = repr(error).partition("\n")[0]
                    log.warning(
                        "probe failed step=%d set=%s who=%s: %s", self.learner.steps, control.name, name, reason
                    )

    def _watched(self, encoder: Encoder, control: ControlSet) -> AbstractContextManager[None]:
        def tell() -> None:
            self._alive(lambda: f"probing on {control.name}")

        return _stoppable(encoder, self._stop, tell)

    def _measure(self, control: ControlSet, name: str, encoder: Encoder) -> None:
        with self._watched(encoder, control):
            result = dataclasses.asdict(run_probe(encoder, control, device=self.learner.device))
        line = {"step": self.learner.steps, "seconds": self._elapsed(), "set": control.name, "who": name}
        line["captured_ns"] = self.learner.memory.newest_ns()  # of the stream's time: how far it had come
        self.directory.append("probes", line | result)
        self._note_probes([line | result])
        accuracies = {kind: result[kind] for kind in ACCURACIES}
        self.metrics.probed(self.learner.steps, control.name, name, accuracies, result["rankme"])
        self.screen.probed(self.learner.steps, control.name, name, result)

    def _note_probes(self, lines: Sequence[dict[str, Any]]) -> None:
        """Keep the first and the last of each set and encoder for the cards of the weights."""
        for line in lines:
            key = line["set"], line["who"]
            self._probed[key] = [*self._probed.get(key, [])[:1], line]
        kept = [line for probes in self._probed.values() for line in probes]
        self.outlet.probed(probe_figures(sorted(kept, key=lambda line: line["step"])))

    def _alive(self, how: Callable[[], str]) -> None:
        self.supervisor.alive(how)
        self.live.alive(how)

    def _resume(self) -> None:
        if self.learner.received:
            self.screen.say(f"resumed at step {self.learner.steps}")
        # Before the first step everything is measured anew: a probe may have been cut.
        self.directory.rewind(self.learner.steps or -1)
        self._note_probes(self.directory.lines("probes"))
        lines = self.directory.lines("steps")
        self._started_s = self._clock() - (lines[-1]["seconds"] if lines else 0.0)
        self._received_before, self._samples_before = self.learner.received, self.learner.samples

    def _observe(self, event: StepReport | Waiting) -> None:
        self._alive(lambda: self._how(event))
        if self._first_pair_s is None and self.learner.received > self._received_before:
            self._first_pair_s = self._clock()
        self.live.observe(event)
        if isinstance(event, Waiting):
            self.screen.waiting(event, self._missing(event))
            return
        self._busy_s += event.busy_s
        self._waited_s += event.waited_s
        batch = self.learner.config.pacing.batch_size
        self._measure_step(event, batch)
        if event.refused or event.rolled_back or is_noted(event.step):
            self._note_step(event)
        self.screen.step(event, batch, self._progress())

    def _note_step(self, report: StepReport) -> None:
        """Its line; where the disk takes none, training goes on without."""
        try:
            self.directory.append("steps", {**_flat(report), "seconds": self._elapsed()})
        except OSError as error:
            self._unnoted += 1
            if self._unnoted & (self._unnoted - 1) == 0:  # the 1st, 2nd, 4th, ...
                log.warning("step %d has no line in steps.jsonl, %d so far: %s", report.step, self._unnoted, error)

    def _measure_step(self, report: StepReport, batch: int) -> None:
        self.metrics.step(report, batch)
        self.metrics.stalest.set(self.learner.memory.stalest_steps())
        if report.debuts and isinstance(self.source, Subscriber):
            self.metrics.debuted(report.debuts, self.source.stats().devices)

    def _missing(self, event: Waiting) -> str:
        pairs = f"{event.wanted} more pair{'s' if event.wanted != 1 else ''}"
        if not isinstance(self.source, Subscriber):
            return pairs
        devices = self.source.stats().devices
        if not devices:
            return f"a device at {', '.join(self.source.endpoints)}"
        silent = [
            f"{name} for {quiet_s:.0f} s"
            for name, device in devices.items()
            if (quiet_s := self._clock() - (device.last_received_s or self._started_s)) >= SILENT_S
        ]
        return f"{pairs}; nothing from {', '.join(silent[:4])}" if silent else pairs

    def _how(self, event: StepReport | Waiting) -> str:
        if isinstance(event, Waiting):
            return f"waiting for {self._missing(event)}"
        return f"step {event.step}  loss {event.loss:.3f}  {self._progress()}"

    def _progress(self) -> str:
        limit = "" if self.limits.train_s is None else f"/{self.limits.train_s:.0f}"
        return f"{self._trained_s():.0f}{limit} s  pairs {self.learner.received}{self._not_here()}"

    def _not_here(self) -> str:
        if not isinstance(self.source, Subscriber):
            return ""
        stats = self.source.stats()
        counts = {"lost": stats.lost, "to come": stats.pending, "waiting here": self.source.backlog()}
        said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f" ({said})" if said else ""

    def _elapsed(self) -> float:
        """Seconds of this run so far; those of its earlier processes count up to their last step."""
        return round(self._clock() - self._started_s, 3)

    def _trained_s(self) -> float:
        return self._clock() - self._first_pair_s if self._first_pair_s is not None else 0.0

    def _at_limit(self) -> bool:
        steps, seconds = self.limits.max_steps, self.limits.train_s
        return (steps is not None and self.learner.steps >= steps) or (
            seconds is not None and self._first_pair_s is not None and self._trained_s() >= seconds
        )

    def _conclude(self, rotation: dict[str, Any]) -> Summary:
        learner = self.learner
        self.directory.write_album(take_album(learner))
        summary = summarise(learner, self.directory, self.source, self._elapsed())
        active_s = self._busy_s + self._waited_s
        trained = learner.samples - self._samples_before
        summary["samples_per_s"] = round(trained / active_s, 2) if active_s else 0.0
        summary["rotation"] = rotation
        summary["duty_cycle"] = round(self._busy_s / active_s, 4) if active_s else 0.0
        self.screen.doing("writing pictures and weights")
        if said := self.outlet.conclude(summary):
            self.screen.say(said)
        self.directory.write_summary(summary)
        return summary


ACCURACIES = ("knn", "knn_10pct", "linear")
DENSE_STEPS_LOG2 = 14


def is_noted(step: int) -> bool:
    """Whether a step gets its line: each of the first 16384, then every 2nd, 4th, ...: 8192 for each doubling.

    A run of months is read whole when it is resumed and reported: 100 million steps are then 123 thousand lines.
    """
    return step % (1 << max(0, step.bit_length() - DENSE_STEPS_LOG2)) == 0


def summarise(learner: Learner, directory: RunDirectory, source: Source, seconds: float) -> Summary:
    """What a run came to, from its learner, its lines and its source's counts."""
    steps = [line for line in directory.lines("steps") if not line["refused"]]
    first, last = (steps[0], steps[-1]) if steps else ({}, {})
    probes = directory.lines("probes")
    stats = source.stats() if isinstance(source, Subscriber) else None
    tally = learner.tally()
    return {
        "pairs_received": learner.received,
        "pairs_suppressed": learner.suppressed,
        "pairs_junk": learner.junk,
        "pairs_lost": stats.lost if stats else 0,
        "pairs_repeated": stats.repeated if stats else 0,
        "malformed": dict(stats.malformed) if stats else {},
        "undecodable": tally.undecodable,
        "steps": learner.steps,
        "rollbacks": learner.guard.rollbacks,
        "samples": learner.samples,
        "replay_ratio": round(learner.samples / learner.received, 3) if learner.received else 0.0,
        "seconds": seconds,
        "loss_first": first.get("loss"),
        "loss_last": last.get("loss"),
        "kl_last": last.get("kl"),
        "teacher_entropy_last": last.get("teacher_entropy"),
        "reservoir": {
            "kept": tally.kept,
            "capacity": learner.config.memory.capacity,
            "waiting": tally.waiting,
            "untrained": tally.untrained,
            "quarantined": tally.quarantined,
        },
    } | probe_figures(probes)


def probe_figures(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the probes say of a run: the first and the last of each set, and the steps of the first and the last of all."""
    return {"probe": probe_table(lines), "probed_steps": [line["step"] for line in (*lines[:1], *lines[-1:])]}


def probe_table(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracies of the first and the last probe of each control set: {set: {before|after: {knn_student: ...}}}.

    `after` is empty where there was but one: a run stopped by hand is not probed again.
    """
    table: dict[str, dict[str, dict[str, float]]] = {}
    for line in lines:
        row = table.setdefault(line["set"], {"before": {}, "after": {}})
        for kind in ACCURACIES:
            name = f"{kind}_{line['who']}"
            row["after" if name in row["before"] else "before"][name] = line[kind]
    return table


class _Stopped(Exception):
    """Raised inside a probe."""


@contextmanager
def _stoppable(encoder: Encoder, stop: Callable[[], bool], tell: Callable[[], None]) -> Iterator[None]:
    """Let each of the encoder's batches `tell` and look at `stop` first: a probe of a large set takes many seconds."""

    def look(*_: Any) -> None:
        tell()
        if stop():
            raise _Stopped

    hook = encoder.register_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


def _flat(report: StepReport) -> dict[str, Any]:
    unsaid = ("gauges", "debuts")
    line = {spec.name: getattr(report, spec.name) for spec in dataclasses.fields(report) if spec.name not in unsaid}
    return line | report.gauges
