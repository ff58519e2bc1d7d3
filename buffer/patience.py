"""What the writers of a run do while their disk is full, or no descriptor is left: wait and try again, or fail."""

from __future__ import annotations

import errno
import logging
import resource
import sqlite3
import threading
from pathlib import Path

log = logging.getLogger(__name__)

_FEW = 16
"""Descriptors that may have become free again since an error."""


class Patience:
    """Decides, for all writers to one disk, whether a write that failed on a full disk is tried again. Thread-safe.

    retry_s: seconds between two attempts; None: a write is never tried again.
    """

    def __init__(self, retry_s: float | None = None) -> None:
        self._retry_s = retry_s
        self._ended = threading.Event()

    def wait(self, problem: OSError) -> bool:
        """Wait before the next attempt and return True; return False at once if the write is not to be tried again.

        problem: the error of the failed write, for the log.
        """
        if self._retry_s is None or self._ended.is_set():
            return False
        log.warning("%s; it is tried again every %g s, and nothing is committed before", problem, self._retry_s)
        self._ended.wait(self._retry_s)
        return True

    def end(self) -> None:
        """Stop waiting: a writer that waits now tries once more, and from now on a failed write is not tried again."""
        self._ended.set()


def lacks_descriptors(error: BaseException) -> bool:
    """Return whether an error was caused by a process or a system that has no file descriptor left, which passes."""
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) in (errno.EMFILE, errno.ENFILE):
            return True
        if (getattr(cause, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_CANTOPEN and _all_in_use():
            return True
        cause = cause.__cause__
    return False


def _all_in_use() -> bool:
    """Return whether this process has hardly a descriptor left: SQLite does not say why it cannot open a file."""
    try:
        in_use = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        return True
    return in_use + _FEW > resource.getrlimit(resource.RLIMIT_NOFILE)[0]
