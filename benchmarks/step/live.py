"""The learner beside a rig, for the step bench: a real stream over TCP, a real store, and a look at where its time goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import torch

from benchmarks.shared.processes import Supervised
from benchmarks.step.rig import RigPlan
from buffer.store import Store
from learner.config import LearnerConfig
from learner.errors import LearnerError
from learner.loop import Learner, StepReport, learn
from learner.memory.memory import Draw
from learner.probes.control_sets import load_control
from learner.probes.probe import run_probe
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.commit import Committer
from learner.service.timing import PAUSE_SHARE, Limits
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair

START_S = 60.0


class Marks:
    """Seconds by name, without those of the marks inside; each thread has its own nesting. Waits for a GPU at each mark."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._clock = clock
        self._inner = threading.local()

    @contextmanager
    def mark(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        outer_s, self._inner.s = getattr(self._inner, "s", 0.0), 0.0
        self._settle()
        began_s = self._clock()
        try:
            yield
        finally:
            self._settle()
            took_s = self._clock() - began_s
            self.seconds[name] = self.seconds.get(name, 0.0) + took_s - self._inner.s
            self._inner.s = outer_s + took_s

    def around(
        self, owner: Any, method: str, name: str, when: Callable[[], object] = lambda: True
    ) -> Callable[[], None]:
        """Mark the calls of a method from now on, those `when` it counts; returns what ends it."""
        was_own = method in vars(owner)
        original = getattr(owner, method)

        def marked(*arguments: Any, **named: Any) -> Any:
            with self.mark(name) if when() else nullcontext():
                return original(*arguments, **named)

        setattr(owner, method, marked)
        return lambda: setattr(owner, method, original) if was_own else delattr(owner, method)

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class LiveLearner:
    """A rig in another process, and the learner on its stream. Context manager; driven by one thread."""

    def __init__(
        self, config: LearnerConfig, device: torch.device, folder: Path, *, pairs_per_s: float, size: tuple[int, int]
    ) -> None:
        self.latencies_s: list[float] = []
        """From leaving the rig to the end of the first step on it; reception is a millisecond of it."""
        self._sent_ns: dict[int, int] = {}
        self._rested: frozenset[int] = frozenset()  # pairs that waited while the others had their turn
        self._in_step: list[int] = []
        self._endpoint = threading.Event()
        self._said = ""
        self._stack = ExitStack()
        plan = msgspec.json.encode(RigPlan(pairs_per_s, size)).decode()
        self._rig = Supervised("rig", ["-m", "benchmarks.step.rig", plan], self._hear, folder / "rig.log")
        self._rig.start()
        self._stack.callback(self._rig.close)
        if not self._endpoint.wait(START_S):
            raise LearnerError(f"the rig did not start: see {folder / 'rig.log'}")
        self.learner = Learner(config, device)
        self.source = Subscriber([self._said])
        self._stack.callback(self.source.close)
        store = self._stack.enter_context(Store(folder / "pairs.sqlite"))
        self.committer = self._stack.enter_context(
            Committer(
                self.learner, self.source, store, CheckpointFolder(folder / "checkpoints"), clock=time.perf_counter
            )
        )
        self._events = learn(self.learner, self.source, clock=time.perf_counter, keep=self._keep)
        self._watch_draws()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def steps(self, count: int) -> list[StepReport]:
        """So many steps on the stream; the rig rests before and afterwards, and nothing is left waiting."""
        self._rig.tell("go")
        reports = [self._next_step() for _ in range(count)]
        self._rig.tell("rest")
        while True:  # until nothing came for as long as the loop waits for a pair
            event = next(self._events)
            if isinstance(event, StepReport):
                self._trained()
            elif event.waited_s > 0.15 and not self.source.backlog():
                self._rested = frozenset(self._sent_ns)
                return reports

    def profile(self, count: int) -> dict[str, float]:
        """Seconds a step by what they went into, over at least so many; "rest" is what else `Learner.step` does."""
        marks = Marks(self.learner.device)
        objective: Any = self.learner.objective
        marked = [
            (self.learner, "decode", "decode, beside the step"),
            (self.learner, "add", "add"),
            (self.committer, "keep", "keep"),
            (self.learner.memory, "batch", "gather"),
            (objective.teacher.encoder, "attention", "attention pass"),
            (objective, "look", "views"),
            (objective, "forward", "forward"),
            (torch.autograd, "backward", "backward"),
            (self.learner.trainer.optimizer, "step", "optimiser"),
            (objective, "after_step", "EMA"),
            (self.learner, "step", "rest"),
        ]
        endings = [marks.around(owner, method, name) for owner, method, name in marked]
        endings.append(marks.around(self.source, "receive", "receive", when=self.source.backlog))  # else it waits
        before = self.learner.steps
        try:
            self.steps(count)
        finally:
            for end in endings:
                end()
        return {name: total_s / (self.learner.steps - before) for name, total_s in marks.seconds.items()}

    def pauses(self) -> dict[str, float]:
        """Shares of the time that a probe and a commit stop training for, at the service's rhythm."""
        limits = Limits()
        began_s = time.perf_counter()
        self.committer.begin()
        committed_s = time.perf_counter() - began_s
        self.committer.settle(wait=True)
        control = load_control(
            "digits", size=self.learner.config.objective.probe_size, limit_train=None, limit_test=None
        )
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
                self._trained()
                return event
        raise LearnerError("the stream has ended")

    def _trained(self) -> None:
        now_ns = time.time_ns()
        sent_ns = {key: self._sent_ns.pop(key) for key in self._in_step}
        self.latencies_s += [1e-9 * (now_ns - at_ns) for key, at_ns in sent_ns.items() if key not in self._rested]
        self._in_step = []

    def _keep(self, key: int, pair: EncodedPair) -> None:
        self._sent_ns[key] = pair.header.left_ns
        self.committer.keep(key, pair)

    def _watch_draws(self) -> None:
        """Which pairs a step sees for the first time."""
        memory: Any = self.learner.memory
        original = memory.draw

        def draw(count: int) -> Draw:
            drawn: Draw = original(count)
            self._in_step = drawn.keys[: drawn.fresh].tolist()
            return drawn

        memory.draw = draw

    def _hear(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "listening":
            self._said = rest
            self._endpoint.set()
