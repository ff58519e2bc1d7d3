"""Decides when the service interrupts training, logs a step and stops. Pure: callers pass the time in, seconds of any clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

from learner.errors import SettingsError
from learner.loop import StepReport

PAUSE_SHARE = 0.05
"""Largest share of the time that probing, and that committing, may take from training."""
AFTER_STOP_S = 120.0
"""Longest time after a stop by hand until the rest of the last probe, and the pictures, are left out."""
ROTATED_S = 60.0
"""Longest time for the accuracies on rotated images, after which the rest is left out."""
DENSE_STEPS_LOG2 = 14
"""Each of the first 2 ** 14 steps is logged."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The times at which the service probes, commits and stops, in seconds."""

    train_s: float | None = None
    """Stop after this many seconds of training, counted from the first pair that this process receives. Waiting for pairs counts,
    probes and commits do not. None trains until it is stopped."""
    max_steps: int | None = None
    """Stop at this step; None sets no last step."""
    probe_every_steps: int | None = None
    """Probe at each multiple of so many steps, whatever time it takes, in place of by the clock: then a guard against forgetting
    goes back at the same steps in every repetition of a run. None: by the clock."""
    probe_every_s: float = 60.0
    """Shortest time between two probes, in seconds. Probes take at most 5 % of the time; one runs at the start and one at the
    end in any case."""
    commit_every_s: float = 60.0
    """Shortest time between two commits, in seconds. Training stops for them at most 5 % of the time; one is made at the end
    in any case."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not value >= 0:  # NaN is refused too
                raise SettingsError(f"--{name.replace('_', '-')} must be 0 or more, got {value}")

    def are_reached(self, step: int, trained_s: float | None) -> bool:
        """Return whether the run stops here; trained_s: see `Times.trained_s`."""
        at_last_step = self.max_steps is not None and step >= self.max_steps
        return at_last_step or (self.train_s is not None and trained_s is not None and trained_s >= self.train_s)


class Rhythm:
    """Decides when training is interrupted again.

    This happens at most every `every_s`, only after new steps, and takes at most PAUSE_SHARE of the time; with `every_steps` at
    each multiple of so many steps instead.
    """

    def __init__(self, every_s: float, *, step: int, now_s: float, every_steps: int | None = None) -> None:
        self._every_s, self._every_steps = every_s, every_steps
        self._step = step
        self._next_s = now_s + every_s

    def is_due(self, step: int, now_s: float) -> bool:
        """Return whether the time has come and there were steps since the last interruption."""
        if self._every_steps:
            return step != self._step and step % self._every_steps == 0
        return step != self._step and now_s >= self._next_s

    def interrupted(self, step: int, began_s: float, ended_s: float) -> None:
        """Record an interruption; the longer it took, the later is the next one."""
        self._step, self._next_s = step, ended_s + max(self._every_s, (ended_s - began_s) / PAUSE_SHARE)


@dataclass
class Times:
    """Counts the seconds of a run."""

    started_s: float
    """When it started, as if its earlier processes had ended just before this one began."""
    busy_s: float = 0.0
    waited_s: float = 0.0
    spent_s: dict[str, float] = field(default_factory=dict)
    """Seconds of this process by what else it did: probes, commits, rotated images, pictures."""
    _first_pair_s: float | None = None
    _paused_s: float = 0.0

    def pair_received(self, now_s: float) -> None:
        """Record that this process has received a pair; only the first one counts."""
        if self._first_pair_s is None:
            self._first_pair_s = now_s

    def add(self, report: StepReport) -> None:
        """Count the seconds of a step."""
        self.busy_s += report.busy_s
        self.waited_s += report.waited_s

    def pause(self, what: str, seconds: float) -> None:
        """Count seconds in which it did not train. what: a key of `spent_s`."""
        self.spent_s[what] = self.spent_s.get(what, 0.0) + seconds
        if self._first_pair_s is not None:
            self._paused_s += seconds

    def elapsed_s(self, now_s: float) -> float:
        """Return the seconds of the run, its earlier processes included up to their last step."""
        return round(now_s - self.started_s, 3)

    def trained_s(self, now_s: float) -> float | None:
        """Return the seconds since the first pair that this process received, without pauses; None before that pair."""
        return None if self._first_pair_s is None else now_s - self._first_pair_s - self._paused_s


class Ending:
    """Says when the work that follows training is left out: once the end is requested again, and some time after a stop by hand.

    stop, hurry: whether the end is requested, and requested again. clock: seconds, monotonic. The time counts from the first
    call after the stop, thus from the end of the last commit.
    """

    def __init__(self, stop: Callable[[], bool], hurry: Callable[[], bool], clock: Callable[[], float]) -> None:
        self._stop, self._hurry, self._clock = stop, hurry, clock
        self._since_s: float | None = None

    def is_over(self) -> bool:
        """Return whether the rest is left out."""
        if self._since_s is None and self._stop():
            self._since_s = self._clock()
        return self._hurry() or (self._since_s is not None and self._clock() - self._since_s >= AFTER_STOP_S)


def is_logged(step: int) -> bool:
    """Return whether a step gets a line: each of the first 16384, later every 2nd, every 4th and so on.

    Each doubling of the steps adds 8192 lines, so that 100 million steps have 123 thousand. A resume and a report read them all.
    """
    return step % (1 << max(0, step.bit_length() - DENSE_STEPS_LOG2)) == 0
