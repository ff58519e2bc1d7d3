"""The findings of `doctor`, and the checks that rig and learner share: clock, disk and OpenCV."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from stream.calibration.rows import matched_rows, row_offset
from stream.errors import ReportedError
from stream.host.printing import printable
from stream.host.program import ExitCode, Result, write
from stream.host.typed import here
from stream.image import Image

GIB = 1 << 30
EARLIEST_S = 1_750_000_000
"""A clock that shows an earlier time is wrong: this code did not exist then."""
MAX_CLOCK_ERROR_S = 0.5
TIME_ERROR = 5
"""The value that adjtimex(2) returns for a clock that is not synchronised."""

OPENCVS = ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
"""The packages that bring the module cv2; the first one is ours."""

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. text: what was found and, if the level is not "ok", what to do."""

    what: str
    level: Level
    text: str


def run_check(what: str, check: Callable[[], Finding]) -> Finding:
    """Return the finding of a check; a ReportedError or OSError that it raises becomes a problem."""
    try:
        return check()
    except (ReportedError, OSError) as error:
        return Finding(what, "problem", str(error))


def report(findings: Iterable[Finding], *, as_json: bool) -> Result:
    """Print each finding as soon as it is known, or only collect them for JSON. A problem makes the exit code 1."""
    reported = []
    for finding in findings:
        reported.append(finding)
        if not as_json:
            write(printable(f"{finding.level:8} {finding.what:12} {finding.text}"))
    problem = any(finding.level == "problem" for finding in reported)
    return Result(figures=[asdict(finding) for finding in reported], code=ExitCode.FAILED if problem else ExitCode.DONE)


def existing_folder(folder: Path) -> Path:
    """Return the folder itself, or its nearest parent that exists."""
    return next((parent for parent in (folder, *folder.parents) if parent.is_dir()), Path.cwd())


def check_disk(folder: Path, free_bytes: int, *, writable: bool, floor_bytes: int, wanted_bytes: int) -> Finding:
    """Check that `wanted_bytes` fit into a folder while `floor_bytes` stay free."""
    free = f"{folder}: {free_bytes / GIB:.1f} GiB free"
    if not writable:
        return Finding("disk", "problem", f"{folder} cannot be written by this user: chown it, or choose another")
    if free_bytes <= floor_bytes:
        return Finding("disk", "problem", f"{free}, {floor_bytes / GIB:.1f} must stay free: make room")
    if free_bytes < floor_bytes + wanted_bytes:
        return Finding("disk", "warning", f"{free}, up to {wanted_bytes / GIB:.1f} are wanted: make room")
    return Finding("disk", "ok", free)


def installed_opencvs() -> list[str]:
    """Return the installed packages that bring the module cv2, each as "NAME VERSION"."""
    found = []
    for name in OPENCVS:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def check_opencv(installed: Sequence[str]) -> Finding:
    """Check that only one package brings cv2: several write their files over each other's."""
    if len(installed) <= 1:
        return Finding("opencv", "ok", "".join(installed) or "not installed by pip")
    others = ", ".join(sorted({name.split()[0] for name in installed}))
    text = f"{' and '.join(installed)} overwrite each other's cv2: pip uninstall -y {others.replace(',', '')}"
    return Finding("opencv", "problem", f"{text}, then pip install {OPENCVS[0]}")


@dataclass(frozen=True, slots=True)
class Clock:
    """The system clock. now_s: seconds since 1970. synchronised: whether NTP or similar sets it.

    error_s: largest error, seconds.
    """

    now_s: float
    synchronised: bool
    error_s: float


def read_clock(now_s: float) -> Clock:
    """Ask the kernel about its clock (adjtimex(2)), which every user may do; nothing is changed."""
    timex = (ctypes.c_long * 64)()  # struct timex begins with modes (padded to a long), offset, freq, maxerror
    state = ctypes.CDLL(None).adjtimex(timex)
    return Clock(now_s, synchronised=0 <= state != TIME_ERROR, error_s=timex[3] / 1e6)


def check_clock(clock: Clock) -> Finding:
    """Check that capture times can be compared across machines."""
    if clock.now_s < EARLIEST_S:
        return Finding("clock", "problem", "the clock is years behind: set it, or wait for NTP (timedatectl)")
    if not clock.synchronised:
        text = "not synchronised, so latencies will be wrong: sudo timedatectl set-ntp true"
        return Finding("clock", "warning", text)
    if clock.error_s > MAX_CLOCK_ERROR_S:
        text = f"synchronised within {clock.error_s:.1f} s only: wait for NTP (timedatectl timesync-status)"
        return Finding("clock", "warning", text)
    return Finding("clock", "ok", f"synchronised within {clock.error_s * 1e3:.0f} ms")


def check_rows(pairs: Iterable[tuple[Image, Image]]) -> Finding:
    """Check that a thing has the same height in both images: objectives look at the same place of both.

    pairs: some images of one camera, left and right, uint8 [H, W] or [H, W, 3] BGR.
    """
    rows, height = [], 0
    for left, right in pairs:
        rows.append(matched_rows(left, right))
        height = left.shape[0]
    offset = row_offset(rows, height)
    if offset is None:
        return Finding(
            "rows", "ok", "their height could not be compared: too few corners are found again in the right image"
        )
    if offset.is_turned(height):
        text = f"{offset.describe()}; the cameras are turned to each other: `{here('device', 'calibrate')}`, then --rectify"
        return Finding("rows", "warning", text)
    if not offset.is_level(height):
        text = f"{offset.describe()}: --row-shift-px {round(offset.px)} corrects it, or `{here('device', 'calibrate')}`"
        return Finding("rows", "warning", text)
    return Finding("rows", "ok", offset.describe())


def can_write(folder: Path) -> bool:
    """Return whether this user may make files in a folder."""
    return os.access(folder, os.W_OK | os.X_OK)
