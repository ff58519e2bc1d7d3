"""What a doctor finds, and what both sides have checked alike: disk and clock. Facts come in, findings go out."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from stream.errors import StreamError

GIB = 1 << 30
EARLIEST_S = 1_750_000_000
"""No clock that is right is before this code."""
MAX_CLOCK_ERROR_S = 0.5
TIME_ERROR = 5
"""What adjtimex(2) returns where nobody keeps the clock right."""

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `text` says what is, and where it is not ok what to do."""

    what: str
    level: Level
    text: str


def tried(what: str, check: Callable[[], Finding], *refusals: type[Exception]) -> Finding:
    """What the check finds; a StreamError and other refusals are a problem, in their own line."""
    try:
        return check()
    except Exception as error:
        if isinstance(error, (StreamError, *refusals)):
            return Finding(what, "problem", str(error))
        raise


def said(findings: Sequence[Finding], *, as_json: bool) -> str:
    """A line for each, or all of them as JSON."""
    if as_json:
        return json.dumps([asdict(finding) for finding in findings])
    return "\n".join(f"{finding.level:8} {finding.what:12} {finding.text}" for finding in findings)


def exit_code(findings: Sequence[Finding]) -> int:
    """1 where there is a problem."""
    return int(any(finding.level == "problem" for finding in findings))


def standing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next((place for place in (folder, *folder.parents) if place.is_dir()), Path.cwd())


def disk(folder: Path, free_bytes: int, *, writable: bool, floor_bytes: int, wanted_bytes: int) -> Finding:
    """Whether `wanted_bytes` fit into a folder beside the `floor_bytes` that stay free."""
    free = f"{folder}: {free_bytes / GIB:.1f} GiB free"
    if not writable:
        return Finding("disk", "problem", f"{folder} is not ours to write: chown it, or choose another folder")
    if free_bytes <= floor_bytes:
        return Finding("disk", "problem", f"{free}, {floor_bytes / GIB:.1f} have to stay free: make room")
    if free_bytes < floor_bytes + wanted_bytes:
        return Finding("disk", "warning", f"{free}, up to {wanted_bytes / GIB:.1f} are wanted: make room")
    return Finding("disk", "ok", free)


@dataclass(frozen=True, slots=True)
class Clock:
    """now_s: since 1970. kept: whether something like NTP keeps it. error_s: the kernel's bound on its error."""

    now_s: float
    kept: bool
    error_s: float


class _Timex(ctypes.Structure):
    """The first fields of struct timex (adjtimex(2)), and room for the others."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_byte * 256),
    )


def read_clock(now_s: float) -> Clock:
    """What the kernel says of its clock; nothing is changed, which anybody may ask."""
    timex = _Timex()
    state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    return Clock(now_s, kept=0 <= state != TIME_ERROR, error_s=timex.maxerror / 1e6)


def clock(read: Clock) -> Finding:
    """Whether capture times can be compared across machines."""
    if read.now_s < EARLIEST_S:
        return Finding("clock", "problem", "the clock is years behind: set it, or wait for NTP (timedatectl)")
    if not read.kept:
        return Finding(
            "clock", "warning", "nobody keeps the clock: sudo timedatectl set-ntp true (latencies will be wrong)"
        )
    if read.error_s > MAX_CLOCK_ERROR_S:
        return Finding(
            "clock", "warning", f"kept within {read.error_s:.1f} s only: wait for NTP (timedatectl timesync-status)"
        )
    return Finding("clock", "ok", f"kept within {read.error_s * 1e3:.0f} ms")


def can_write(folder: Path) -> bool:
    """Whether this user may make files there."""
    return os.access(folder, os.W_OK | os.X_OK)
