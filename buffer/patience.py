"""What the writers of a run do while their disk is full: wait and try again, or fail."""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)


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
