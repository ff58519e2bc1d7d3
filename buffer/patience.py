"""Whether and how long the writers of a run wait while their disk is full."""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)


class Patience:
    """Tells all who write to one disk whether to try again after it was full. Thread-safe.

    retry_s: seconds between two attempts; None: an attempt that fails is the last one.
    """

    def __init__(self, retry_s: float | None = None) -> None:
        self._retry_s = retry_s
        self._ended = threading.Event()

    def wait(self, problem: OSError) -> bool:
        """Wait, and return True when the write that met this problem is to be tried again; False at once if it is not."""
        if self._retry_s is None or self._ended.is_set():
            return False
        log.warning("%s; it is tried again every %g s, and nothing is committed before", problem, self._retry_s)
        self._ended.wait(self._retry_s)
        return True

    def end(self) -> None:
        """From now on a write to a full disk fails like any other; writers that wait now try once more."""
        self._ended.set()
