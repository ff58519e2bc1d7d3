"""A signal: rows of numbers of one kind, each with its own time, such as an IMU at 200 Hz between two pairs.

Some names have a meaning, so that a learner finds what it needs whatever the rig is:

| name | one row | unit |
|---|---|---|
| action | what the robot did; every robot has numbers of its own | |
| reward | one number | |
| acceleration | x, y, z of an accelerometer | m/s^2 |
| gyroscope | x, y, z of the rate of turn | rad/s |
| odometry | x, y, z, then the quaternion x, y, z, w | m |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ACTION, REWARD, ACCELERATION, GYROSCOPE, ODOMETRY = "action", "reward", "acceleration", "gyroscope", "odometry"
"""The names with a meaning."""

MAX_SIGNALS = 32
"""Largest number of signals of one pair."""
MAX_ROWS = 64
"""Largest number of rows that one signal has between two pairs."""
MAX_WIDTH = 64
"""Largest number of values in a row."""
MAX_BYTES = 128 << 10
"""All signals of a pair together take no more, as `size_bytes` counts them."""
WINDOW_NS = 24 * 3600 * 10**9
"""A row is at most so far away from its pair, before or after it: what is further away has another clock."""
MAX_NAME = 64
MAX_UNIT = 32

REASONS = ("form", "names", "changed", "finite", "times")
"""Why a signal is refused: its form is wrong (shape, name, unit, size), there are too many names, its width or unit has
changed, it has a number that is not finite, or times that run back or are far away from the pair."""

NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}")
"""Pattern of the name of a signal, an episode or a subject; it has to match the whole name."""
_FRAME_BYTES = 256
"""A bound of what name, unit and lengths of a signal take in a message."""


class BadSignal(ValueError):
    """A signal that is refused. reason: one of REASONS. name: of a signal that was accepted before, "" for any other."""

    def __init__(self, reason: str, detail: str, name: str = "") -> None:
        super().__init__(detail)
        self.reason, self.name = reason, name


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Signal:
    """Rows of one signal. Two signals are equal if all their bits are.

    values: float64 [rows, width]. times_ns: int64 [rows], nanoseconds since 1970, none earlier than the one before. unit: such as
    "m/s^2". Anything that NumPy converts to these is copied; a single row may be given as [width] values and one time.
    Raises BadSignal for shapes that do not fit; `check` says whether a signal can be sent.
    """

    values: NDArray[np.float64]
    times_ns: NDArray[np.int64]
    unit: str

    def __init__(self, values: ArrayLike, times_ns: ArrayLike, unit: str = "") -> None:
        try:
            times, rows = np.array(times_ns), np.array(values, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadSignal("form", f"it is no table of numbers: {error}") from error
        if times.size and times.dtype.kind not in "iu":
            raise BadSignal("form", f"times are whole nanoseconds, got {times.dtype}")
        if times.ndim == 0:
            times, rows = times[None], np.atleast_1d(rows)[None]
        if times.size == 0 and rows.shape == (0,):
            rows = np.empty((0, 1))
        if times.ndim != 1 or rows.ndim != 2 or len(times) != len(rows):
            raise BadSignal("form", f"expected values [rows, width] and times [rows], got {rows.shape}, {times.shape}")
        times = np.minimum(times, np.iinfo(np.int64).max).astype(np.int64)
        for name, value in (("values", rows), ("times_ns", times)):
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "unit", str(unit))

    @property
    def width(self) -> int:
        """The number of values in a row."""
        return int(self.values.shape[1])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.times_ns)

    def __getitem__(self, rows: Any) -> Signal:
        """Return some of the rows: a slice, or an array as NumPy indexes with."""
        return Signal(self.values[rows], self.times_ns[rows], self.unit)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signal) and self._bits() == other._bits()

    def __hash__(self) -> int:
        return hash(self._bits())

    def _bits(self) -> tuple[object, ...]:
        return self.unit, self.values.shape, self.values.tobytes(), self.times_ns.tobytes()


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a rig knows of a moment beside its images. It is false if that is nothing.

    signals: by name, the rows since the last pair. episode: the trial of a robot, whose actions and rewards belong together, ""
    if there is none. subject: who or what wears the rig, "" if it is not said. Both have the form of a device's name.
    """

    signals: Mapping[str, Signal] = field(default_factory=dict)
    episode: str = ""
    subject: str = ""

    def __bool__(self) -> bool:
        return bool(self.signals or self.episode or self.subject)

    def __hash__(self) -> int:
        return hash((frozenset(self.signals.items()), self.episode, self.subject))


NOTHING = Telemetry()


def size_bytes(rows: int, width: int) -> int:
    """Return a bound of the bytes of a signal in a message."""
    return 8 * rows * (1 + width) + _FRAME_BYTES


def check(name: str, signal: Signal, pair_ns: int) -> None:
    """Raise BadSignal, with a reason and one line, if a signal cannot be part of a pair that was taken at `pair_ns`."""
    check_form(name, signal)
    if not 1 <= len(signal) <= MAX_ROWS:
        raise BadSignal("form", f"{name} has {len(signal)} rows, not 1 to {MAX_ROWS}")
    if not np.isfinite(signal.values).all():
        raise BadSignal("finite", f"{name} has a value that is not finite")
    if (np.diff(signal.times_ns) < 0).any():
        raise BadSignal("times", f"{name} has times that run back")
    if not in_window(signal, pair_ns).all():
        raise BadSignal("times", f"{name} has times that are more than a day away from its pair")


def is_label(text: str) -> bool:
    """Return whether a text can be the name of an episode or a subject; "" is none."""
    return isinstance(text, str) and (not text or NAME.fullmatch(text) is not None)


def check_label(what: str, text: str) -> None:
    """Raise BadSignal if a text cannot be the name of an episode or a subject. what: it is."""
    if not is_label(text):
        raise BadSignal("form", f"{text!r:.{MAX_NAME}} is no name for {what}: 1 to {MAX_NAME} of A-Z a-z 0-9 . _ -")


def check_form(name: str, signal: Signal) -> None:
    """Raise BadSignal if a name, a unit or a width cannot be sent."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadSignal("form", f"{name!r:.{MAX_NAME}} is no name: 1 to {MAX_NAME} of A-Z a-z 0-9 . _ -")
    if len(signal.unit) > MAX_UNIT or not signal.unit.isprintable():
        raise BadSignal("form", f"{name} has a unit that is longer than {MAX_UNIT} characters, or not printable")
    if not 1 <= signal.width <= MAX_WIDTH:
        raise BadSignal("form", f"{name} is {signal.width} wide, not 1 to {MAX_WIDTH}")


def in_window(signal: Signal, pair_ns: int) -> NDArray[np.bool_]:
    """Return which rows are near enough to a pair, bool [rows]."""
    first, last = max(0, pair_ns - WINDOW_NS), min(np.iinfo(np.int64).max, pair_ns + WINDOW_NS)
    return np.asarray((first <= signal.times_ns) & (signal.times_ns <= last))
