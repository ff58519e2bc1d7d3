"""Probes every encoder on every control set, between two steps of training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from learner.loop import Learner
from learner.networks.encoder import Encoder
from learner.probes.control_sets import ControlSet
from learner.probes.probe import run_probe, run_rotations
from learner.runs.folder import RunDirectory
from learner.runs.reading import Line
from learner.service.observers import Observers
from learner.service.stream_probe import StreamProbe
from learner.service.summary import probe_figures
from learner.weights.latest import LatestWeights

log = logging.getLogger(__name__)


class _Named(Protocol):
    @property
    def name(self) -> str:
        """What is probed, for people."""


_T = TypeVar("_T", bound=_Named)


@dataclass(eq=False, kw_only=True)
class Prober:
    """Measures the encoders of a learner on control sets and on the held-out pairs of its stream.

    It writes a line for each result, and hands the figures to the model cards. The guard against forgetting judges each probe;
    the last one only where probes go by the clock (`judges_at_end`), because an unstopped run would not have had it.

    A probe that fails is logged and counted, since training does not depend on it. `stop` ends one between two batches, `hurry`
    also the last one of the run.
    """

    learner: Learner
    directory: RunDirectory
    controls: Sequence[ControlSet]
    stream: StreamProbe
    observers: Observers
    latest_weights: LatestWeights
    stop: Callable[[], bool]
    hurry: Callable[[], bool]
    elapsed_s: Callable[[], float]
    """Returns the seconds of the run so far."""
    judges_at_end: bool = True
    _streamed: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of the last probe on the stream of each encoder: the step, and how many pairs had been held out."""
    _first_and_last: dict[tuple[str, str], list[Line]] = field(default_factory=dict)
    _answers: dict[tuple[str, str], NDArray[np.bool_]] = field(default_factory=dict)
    """Of the probes of the present networks, for the guard against forgetting."""

    def resume(self) -> None:
        """Go on from the probes in the run directory, and probe on the control sets that are new to the run."""
        lines = self.directory.lines("probes")
        self.controls = [self._named(control, lines) for control in self.controls]
        good_step = (self.learner.trainer.fine or {}).get("step", 0)
        self._update_cards([line for line in lines if line["step"] <= good_step])
        self._update_cards([line for line in lines if line["step"] > good_step])
        known = {line["set"] for line in lines}
        self._each([control for control in self.controls if control.name not in known], self._probe)
        if not self.learner.steps:
            self._judge()
        elif self.learner.trainer.forgetting.has_start:
            self._warn_of_unknown()

    def _named(self, control: ControlSet, lines: Sequence[Line]) -> ControlSet:
        """Return a control set under a name of its own if the run knows its name with other images: they are not compared."""
        of_before = {line["set"]: line.get("images") for line in lines}
        given = {one.name for one in self.controls}
        others = (f"{control.name}-{number}" for number in count(2))
        free = chain([control.name], (name for name in others if name not in given))
        # None: not measured yet, or by an earlier version.
        name = next(name for name in free if of_before.get(name) in (None, control.images))
        if name == control.name:
            return control
        log.warning("%s has other images than before in this run: it is measured as %s", control.name, name)
        return replace(control, name=name)

    def _warn_of_unknown(self) -> None:
        """Say which control sets the guard against forgetting cannot compare with the start."""
        guard = self.learner.trainer.forgetting
        known = [control.name for control in self.controls if guard.knows(control.identity)]
        others = [control.name for control in self.controls if control.name not in known]
        if not known:
            log.warning(
                "nothing guards against forgetting, and export/ keeps the weights that it has: no control set is one that the "
                "start was measured on, with the same images. Give the same --control and --control-limit as before"
            )
        elif others:
            log.warning(
                "the guard against forgetting leaves out %s: the start was not measured on these images",
                ", ".join(others),
            )

    def probe(self) -> None:
        """Measure every encoder on every control set and on the stream, now; then judge whether it has forgotten."""
        self._answers.clear()
        is_whole = self._each(self.controls, self._probe)
        self._each(self._streams(), self._probe_stream)
        if is_whole:
            self._judge()

    def conclude(self) -> bool:
        """Measure for the last time, unless the last measurement was of the same weights, or there was no step.

        Returns whether the guard against forgetting has judged it, which is in no commit yet.
        """
        if not self.learner.steps:
            return False
        steps = {name: {line["step"] for line in lines} for (name, _), lines in self._first_and_last.items()}
        changed = [control for control in self.controls if self.learner.steps not in steps.get(control.name, ())]
        self._answers.clear()
        is_whole = self._each(changed, self._probe, stop=self.hurry)
        if not (is_whole and self._each(self._streams(), self._probe_stream, stop=self.hurry)):
            self.observers.screen.log("the rest of the last probe is left out")
        elif len(changed) == len(self.controls) and self.judges_at_end:
            return self._judge(may_go_back=False)  # training is over
        return False

    def _judge(self, *, may_go_back: bool = True) -> bool:
        if not (self.learner.trainer.forgetting.watches and self._answers):
            return False
        self.observers.judged(self.learner.judge(self._answers, may_go_back=may_go_back), self.learner)
        return True

    def rotations(self, stop: Callable[[], bool]) -> dict[str, dict[str, Any]]:
        """Return accuracies on rotated images, by set and encoder; those that `stop` prevents are left out."""
        table: dict[str, dict[str, Any]] = {}

        def measure(control: ControlSet, name: str, encoder: Encoder) -> None:
            table.setdefault(control.name, {})[name] = run_rotations(encoder, control, device=self.learner.device)

        if not self._each(self.controls, measure, stop=stop, doing="turning the images of"):
            self.observers.screen.log("the rest of the rotated images is left out")
        return table

    def _each(
        self,
        controls: Sequence[_T],
        measure: Callable[[_T, str, Encoder], None],
        *,
        stop: Callable[[], bool] | None = None,
        doing: str = "probing",
    ) -> bool:
        """Measure each encoder on each set, and return whether `stop` has left none out."""
        for control in controls:
            for name, encoder in self.learner.objective.encoders().items():
                text = f"{doing} {control.name}, {name}"
                self.observers.screen.show(text)
                try:
                    with self._stoppable(encoder, text, stop or self.stop):
                        measure(control, name, encoder)
                except _Stopped:
                    return False
                except Exception as error:  # of any kind: training does not depend on a probe
                    self.observers.metrics.failed_probes.inc()
                    reason = repr(error).partition("\n")[0]
                    step = self.learner.steps
                    log.warning("probe failed step=%d set=%s encoder=%s: %s", step, control.name, name, reason)
        return True

    def _probe(self, control: ControlSet, name: str, encoder: Encoder) -> None:
        step = self.learner.steps
        probed = run_probe(encoder, control, device=self.learner.device)
        result, self._answers[control.identity, name] = probed.figures(), probed.knn_right
        line = {
            "step": step,
            "seconds": self.elapsed_s(),
            "set": control.name,
            "encoder": name,
            "images": control.images,
        }
        line["captured_ns"] = self.learner.memory.newest_ns()  # how far the stream had come, by its devices' clocks
        self.directory.append("probes", line | result)
        self._update_cards([line | result])
        self.observers.probed(step, control.name, name, result)

    def _streams(self) -> list[StreamProbe]:
        """Return what to probe of the stream: nothing without held-out pairs, or since a probe of the same weights and pairs."""
        names, state = self.learner.objective.encoders(), (self.learner.steps, self.learner.held_out.count)
        is_due = any(self._streamed.get(name) != state for name in names)
        return [self.stream] if is_due and self.learner.held_out.kept else []

    def _probe_stream(self, stream: StreamProbe, name: str, encoder: Encoder) -> None:
        step = self.learner.steps
        figures = stream.measure(encoder)
        self._streamed[name] = step, self.learner.held_out.count
        line = {"step": step, "seconds": self.elapsed_s(), "encoder": name} | figures
        line["captured_ns"] = self.learner.memory.newest_ns()
        self.directory.append("holdout", line)
        self.observers.probed_stream(line)

    def _update_cards(self, lines: Sequence[Line]) -> None:
        """Give the model cards the first and the last line of each set and encoder."""
        for line in lines:
            key = line["set"], line["encoder"]
            self._first_and_last[key] = [*self._first_and_last.get(key, [])[:1], line]
        kept = [line for probes in self._first_and_last.values() for line in probes]
        if kept:
            self.latest_weights.set_probes(probe_figures(sorted(kept, key=lambda line: line["step"])))

    @contextmanager
    def _stoppable(self, encoder: Encoder, text: str, stop: Callable[[], bool]) -> Iterator[None]:
        """Check `stop` before each of the encoder's batches, since a probe on a large set takes many seconds."""
        seen = 0

        def check(_encoder: Any, batch: tuple[Any, ...]) -> None:
            nonlocal seen
            self.observers.alive(lambda: text)
            self.observers.screen.update(lambda: f"{text}: {seen} images so far")
            seen += len(batch[0])
            if stop():
                raise _Stopped

        hook = encoder.register_forward_pre_hook(check)
        try:
            yield
        finally:
            hook.remove()


class _Stopped(Exception):
    """Ends a probe between two batches."""
