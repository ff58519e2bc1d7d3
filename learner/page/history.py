"""The lines of a run as columns of numbers, read on as they grow: a page that is open for months reads each line once."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import TypeGuard

import msgspec
import numpy as np

from learner.runs.reading import Points

CHUNK_BYTES = 1 << 20


class Tail:
    """The objects of a .jsonl, each once; from the beginning again where the file was replaced. A line without its end waits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0, 0  # inode, bytes read

    def lines(self) -> Iterator[dict[str, object] | None]:
        """What came since the last time; None first where it begins anew. A line that cannot be read is left out."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            inode, done = self._place
            status = os.fstat(file.fileno())
            if status.st_ino != inode or status.st_size < done:
                done = 0
                yield None
            file.seek(done)
            while whole := _whole_lines(file.read(CHUNK_BYTES)):
                done += len(whole)
                file.seek(done)
                self._place = status.st_ino, done
                for line in whole.splitlines():
                    try:
                        yield msgspec.json.decode(line, type=dict[str, object])
                    except msgspec.DecodeError:
                        continue


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


class Column:
    """One quantity over steps."""

    def __init__(self) -> None:
        self._steps, self._values = array("d"), array("d")

    def add(self, step: object, value: object) -> None:
        """One more, where both are finite numbers."""
        if is_number(step) and is_number(value):
            self._steps.append(step)
            self._values.append(value)

    @property
    def points(self) -> Points:
        """Copies, of what there is now."""
        return np.array(self._steps), np.array(self._values)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
