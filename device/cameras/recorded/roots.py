"""Roots of data sets: where the two eyes are below a folder, and the times that stand in files beside them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from device.camera import CameraError
from device.cameras.recorded import names

MAX_TIMES_BYTES = 64 << 20
PLACES = (
    ("mav0/cam0/data", "mav0/cam1/data"),  # EuRoC, TUM-VI
    ("cam0/data", "cam1/data"),
    ("image_02/data", "image_03/data"),  # KITTI raw, colour, then grey
    ("image_00/data", "image_01/data"),
    ("image_2", "image_3"),  # KITTI odometry and stereo, colour, then grey
    ("image_0", "image_1"),
    ("cam0/images", "cam1/images"),
    ("left", "right"),
    ("cam0", "cam1"),
)
"""Where the left and the right images are below a root; the first that is there counts."""
_NANOSECONDS = re.compile(r"\s*(\d{1,19})\s*")


@dataclass(frozen=True, slots=True)
class Eye:
    """A folder of images, and the times in nanoseconds that a file beside it gives to their names."""

    folder: Path
    times_ns: Mapping[str, int] = field(default_factory=dict)


def find_root(root: Path) -> tuple[Eye, Eye]:
    """Return the eyes below the root of a data set: EuRoC, TUM-VI, KITTI, or `left` beside `right`.

    Raises CameraError if there are none.
    """
    if not root.is_dir():
        raise CameraError(f"no folder {root}: expected dir:LEFT,RIGHT, two folders of images, or dir:ROOT")
    for left, right in PLACES:
        if (root / left).is_dir() and (root / right).is_dir():
            one, other = (Eye(folder, _times_beside(root, folder)) for folder in (root / left, root / right))
            return one, other
    known = ", ".join("LEFT beside RIGHT".replace("LEFT", left).replace("RIGHT", right) for left, right in PLACES)
    folder = next((entry for entry in sorted(root.iterdir()) if entry.is_dir()), None)
    example = "" if folder is None else f". For the images of one of its folders, name that one, such as dir:{folder}"
    raise CameraError(
        f"{root} has no two eyes below it: expected dir:LEFT,RIGHT, a root with {known}, or images in it{example}"
    )


def _times_beside(root: Path, folder: Path) -> dict[str, int]:
    """Return the times that data.csv (EuRoC), timestamps.txt (KITTI raw) or times.txt (KITTI odometry) gives; {} if none does."""
    if (table := folder.parent / "data.csv").is_file() and folder.name == "data":
        try:
            return dict(_euroc(table))
        except csv.Error:  # the zeros that a broken copy leaves are one field without an end
            return {}
    for file in (folder.parent / "timestamps.txt", root / "times.txt"):
        if file.is_file():
            return _by_number(folder, _lines(file))
    return {}


def _euroc(table: Path) -> Iterator[tuple[str, int]]:
    for row in csv.reader(_lines(table)):
        if len(row) >= 2 and (digits := _NANOSECONDS.fullmatch(row[0])) and _is_time(time_ns := int(digits[1])):
            yield row[1].strip(), time_ns


def _by_number(folder: Path, lines: list[str]) -> dict[str, int]:
    """Return the times of images whose names are the numbers of the lines. Line 0 is the first one."""
    times = {}
    for path in folder.iterdir():
        number = path.stem.partition("_")[0]
        if names.is_image(path.name) and number.isdecimal() and int(number) < len(lines):
            time_ns = _parsed(lines[int(number)].strip())
            if time_ns is not None:
                times[path.name] = time_ns
    return times


def _parsed(text: str) -> int | None:
    """Return the nanoseconds in a line: seconds, or a date as KITTI raw writes it; None if there is no time in it."""
    time_ns = _read(text)
    return time_ns if time_ns is not None and _is_time(time_ns) else None


def _is_time(time_ns: int) -> bool:
    """Return whether this is a time before 2100. Moved to a start of today, it then still fits into a header."""
    return 0 <= time_ns < names.TO_NS


def _read(text: str) -> int | None:
    try:
        return round(float(text) * 1e9)
    except (ValueError, OverflowError):
        pass
    whole, _, fraction = text.partition(".")
    try:
        seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
        return seconds * 10**9 + int(fraction.ljust(9, "0")[:9])
    except (ValueError, OverflowError):
        return None


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            return file.read(MAX_TIMES_BYTES).decode("utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise CameraError(f"{path} cannot be read: {error.strerror}") from error
