"""Limits how often a log line is written, so that a broken device or a stranger cannot fill a disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable


class LogLimit:
    """Allows one line an interval for each subject. Subjects must be few: they are remembered. clock: seconds, monotonic."""

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._allowed_s: dict[Hashable, float] = {}

    def allows(self, subject: Hashable = None) -> bool:
        """Whether a line may be written now; the next one then has to wait."""
        now_s = self._clock()
        if now_s - self._allowed_s.get(subject, float("-inf")) < self._interval_s:
            return False
        self._allowed_s[subject] = now_s
        return True
