"""How far an epoch had come, in a small file beside its segments: RUN-EPOCH.head.

Rewritten in place with each pair, so that it survives kill -9 as the pair does. If the newest segment is cut off later, it
tells how many pairs are lost with it, which nobody else may know. If all segments were evicted, it tells that there was
such an epoch. It goes when every learner has acknowledged all of it.
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


class Head:
    """One past the last number of an epoch that is being written. Raises OSError where the file cannot be made."""

    def __init__(self, folder: Path, *, run: int, epoch: str) -> None:
        self._path = folder / f"{run:08}-{epoch}.head"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, seq: int) -> None:
        """Everything below `seq` was appended or refused; where this cannot be written, what was written before stays."""
        with suppress(OSError):
            os.pwrite(self._descriptor, to_line(f"{seq:019}"), 0)  # as long as every other one

    def close(self, *, delete: bool) -> None:
        """Close the file, and delete it where nobody has to be told any more."""
        os.close(self._descriptor)
        if delete:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class PastHead:
    """What the file of an earlier run says: 0 for a damaged one."""

    path: Path
    run: int
    head: int

    def delete(self) -> None:
        """Nobody has to be told any more."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def find_heads(folder: Path) -> dict[str, PastHead]:
    """The files of earlier runs by epoch, oldest first."""
    found = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is not None:
            found[match["epoch"]] = PastHead(path, int(match["run"]), _read(path))
    return found


def _read(path: Path) -> int:
    try:
        with path.open("rb") as file:
            text = from_line(file.read(_MAX_BYTES))
    except OSError:
        return 0
    return int(text) if text is not None and re.fullmatch(r"\d{19}", text, re.ASCII) else 0
