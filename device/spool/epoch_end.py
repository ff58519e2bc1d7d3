"""The end of an epoch (the number of its last pair, plus one), in a small file beside its segments: RUN-EPOCH.head.

The file is rewritten in place with each pair, so it survives kill -9 as the pair does. If the newest segment is cut off
later, the file says how many pairs are lost with it. If all segments were deleted, the file says that the epoch existed, for
consumers that come back with an older cursor. It stays until there are too many of them.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from device.spool.checked_line import from_line, to_line

_NAME = re.compile(r"(?P<run>\d{8})-(?P<epoch>[0-9a-f]{32})\.head", re.ASCII)
_MAX_BYTES = 64


class EpochEndFile:
    """The file of the epoch that is being written. Raises OSError if it cannot be made."""

    def __init__(self, folder: Path, *, run: int, epoch: str) -> None:
        self.path = folder / f"{run:08}-{epoch}.head"
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, end: int) -> None:
        """Write that every number below `end` was appended or refused. If the disk refuses this, the old number stays."""
        with suppress(OSError):
            os.pwrite(self._descriptor, to_line(f"{end:019}"), 0)  # every line has the same length

    def sync(self) -> None:
        """Make the number survive a power cut. Raises OSError."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; it stays in the folder."""
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """The end of an epoch that an earlier run wrote, read from its file."""

    path: Path
    run: int
    end: int
    """Number of the last pair of the epoch, plus one; 0 if the file is damaged."""


def find_epoch_ends(folder: Path) -> dict[str, EpochEnd]:
    """Find the files of earlier runs; return the end of each epoch, oldest first."""
    found = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is not None:
            found[match["epoch"]] = EpochEnd(path, int(match["run"]), _read(path))
    return found


def _read(path: Path) -> int:
    try:
        with path.open("rb") as file:
            text = from_line(file.read(_MAX_BYTES))
    except OSError:
        return 0
    return int(text) if text is not None and re.fullmatch(r"\d{19}", text, re.ASCII) else 0
