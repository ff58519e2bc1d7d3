"""Reads the lines of a run as columns of numbers. It follows a file that grows, so that each line is read once."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from learner.runs.reading import Points, is_number

MAX_LINE_BYTES = 1 << 20
"""A longer line ends the reading: it can only be damage."""


class Tail:
    """Reads each object of a .jsonl file once. A file that was replaced is read from its beginning.

    restart: called before a file is read from its beginning, so that the caller forgets the earlier lines.
    """

    def __init__(self, path: Path, restart: Callable[[], None]) -> None:
        self._path = path
        self._restart = restart
        self._position = 0, 0  # inode, bytes read

    def lines(self) -> Iterator[dict[str, object]]:
        """Yield the lines since the last call. A damaged line is left out, and one without its end comes with a later call."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            inode, done = self._position
            status = os.fstat(file.fileno())
            if status.st_ino != inode or status.st_size < done:
                done = 0
                self._restart()
            file.seek(done)
            while (line := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
                done += len(line)
                self._position = status.st_ino, done
                with suppress(ValueError, RecursionError):
                    read = json.loads(line)  # unlike msgspec it reads NaN, which a collapsed network has
                    if isinstance(read, dict):
                        yield read


class Column:
    """The values of a quantity over steps."""

    def __init__(self) -> None:
        self._steps, self._values = array("d"), array("d")

    def add(self, step: object, value: object) -> None:
        """Append a point, if both are finite numbers."""
        if is_number(step) and is_number(value):
            self._steps.append(step)
            self._values.append(value)

    @property
    def points(self) -> Points:
        """Copies of the present points."""
        return np.array(self._steps), np.array(self._values)
