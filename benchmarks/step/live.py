"""The learner with a rig, for the step bench: a real stream over TCP, a real store, and a profile of its steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.shared.probing import control_set
from benchmarks.shared.processes import Workers
from benchmarks.step.rig import publish
from buffer.store import Store
from learner.config import LearnerConfig
from learner.errors import Failed
from learner.loop import Learner, StepReport, learn
from learner.probes.probe import run_probe
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.commit import Committer
from learner.service.timing import PAUSE_SHARE, Limits
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair

QUIET_S = 0.15
"""Seconds without a pair after which the rig counts as resting."""


class Profile:
    """Seconds by name, without those of parts inside. Each thread has its own nesting. A GPU is waited for at each end."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._clock = clock
        self._inner = threading.local()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside the context under this name."""
        outer_s, self._inner.s = getattr(self._inner, "s", 0.0), 0.0
        self._wait_for_device()
        began_s = self._clock()
        try:
            yield
        finally:
            self._wait_for_device()
            spent_s = self._clock() - began_s
            self.seconds[name] = self.seconds.get(name, 0.0) + spent_s - self._inner.s
            self._inner.s = outer_s + spent_s

    @contextmanager
    def around(self, owner: Any, method: str, name: str, when: Callable[[], object] = lambda: True) -> Iterator[None]:
        """Inside the context, count the time of a method's calls under this name; only of the calls for which `when` is true."""
        original = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.part(name) if when() else nullcontext():
                return original(*arguments, **named)

        with mock.patch.object(owner, method, timed):
            yield

    def _wait_for_device(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class LiveLearner:
    """A rig in another process, and a learner on its stream. One thread drives it; it has to be closed."""

    def __init__(
        self, config: LearnerConfig, device: torch.device, folder: Path, pairs_per_s: float, size: tuple[int, int]
    ) -> None:
        self.latencies_s: list[float] = []
        """Seconds from the moment at which a pair leaves the rig to the end of its first step; receiving takes a millisecond
        of it."""
        self._waiting_ns: set[int] = set()  # times at which the pairs left the rig that had no step yet
        self._rested_ns: frozenset[int] = frozenset()  # those of pairs that waited during the turns of the other rows
        self._stack = ExitStack()
        self._workers = self._stack.enter_context(closing(Workers()))
        self._workers.start("rig", publish, pairs_per_s, size)
        endpoint = self._workers.receive("rig")
        self._stack.callback(self._workers.send, "leave")
        self.learner = Learner(config, device)
        self.source = self._stack.enter_context(Subscriber([endpoint]))
        store, checkpoints = (
            self._stack.enter_context(Store(folder / "pairs.sqlite")),
            CheckpointFolder(folder / "checkpoints"),
        )
        committer = Committer(self.learner, self.source, store, checkpoints, clock=time.perf_counter)
        self.committer = self._stack.enter_context(closing(committer))
        self._events = learn(self.learner, self.source, clock=time.perf_counter, keep=self._keep)

    def close(self) -> None:
        """End the rig, and close store and source."""
        self._stack.close()

    def steps(self, count: int) -> list[StepReport]:
        """Take `count` steps on the stream. The rig rests before and afterwards, and no received pair is left in a queue."""
        self._workers.send("go")
        reports = [self._next_step() for _ in range(count)]
        self._workers.send("rest")
        while True:
            event = next(self._events)
            if isinstance(event, StepReport):
                self._note(event)
            elif event.waited_s > QUIET_S and not self.source.backlog():
                self._rested_ns = frozenset(self._waiting_ns)
                return reports

    def profile(self, count: int) -> dict[str, float]:
        """Return the seconds per step by part, over at least `count` steps; "rest" is everything else in `Learner.step`."""
        profile = Profile(self.learner.device)
        objective: Any = self.learner.objective
        parts = [
            (self.learner, "decode", "decode, beside the step"),
            (self.learner, "add", "add"),
            (self.committer, "keep", "keep"),
            (self.learner.memory, "batch", "gather"),
            (objective.teacher.encoder, "attention", "attention pass"),
            (objective, "views", "views"),
            (objective, "forward", "forward"),
            (torch.autograd, "backward", "backward"),
            (self.learner.trainer.optimizer, "step", "optimiser"),
            (objective, "after_step", "EMA"),
            (self.learner, "step", "rest"),
        ]
        before = self.learner.steps
        with ExitStack() as stack:
            for owner, method, name in parts:
                stack.enter_context(profile.around(owner, method, name))
            # Receiving counts only while pairs are there; otherwise it is waiting.
            stack.enter_context(profile.around(self.source, "receive", "receive", when=self.source.backlog))
            self.steps(count)
        return {name: total_s / (self.learner.steps - before) for name, total_s in profile.seconds.items()}

    def pauses(self) -> dict[str, float]:
        """Return the shares of the time for which probes and commits stop training, as often as the service makes them."""
        limits = Limits()
        began_s = time.perf_counter()
        self.committer.begin()
        committed_s = time.perf_counter() - began_s
        self.committer.settle(wait=True)
        control = control_set("digits", self.learner.config.crops.probe_size)
        began_s = time.perf_counter()
        for encoder in self.learner.objective.encoders().values():
            run_probe(encoder, control, device=self.learner.device)
        probed_s = time.perf_counter() - began_s
        return {
            "probe": min(PAUSE_SHARE, probed_s / limits.probe_every_s),
            "commit": min(PAUSE_SHARE, committed_s / limits.commit_every_s),
        }

    def _next_step(self) -> StepReport:
        for event in self._events:
            if isinstance(event, StepReport):
                self._note(event)
                return event
        raise Failed("the stream has ended")

    def _note(self, report: StepReport) -> None:
        """Record the latency of the pairs that had their first step; the rig writes the time of sending into each pair."""
        now_ns, sent_ns = time.time_ns(), {sent_ns for _, sent_ns in report.fresh}
        self.latencies_s += [1e-9 * (now_ns - at_ns) for at_ns in sent_ns - self._rested_ns]
        self._waiting_ns -= sent_ns

    def _keep(self, key: int, pair: EncodedPair) -> None:
        self._waiting_ns.add(pair.header.left_ns)
        self.committer.keep(key, pair)
