"""Counts failures, and logs them at a limited rate, so that a broken device or a stranger cannot fill a disk."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable


class Failures:
    """Counts failures by reason. Logs at most one line an interval for each reason and subject; subjects must be few.

    One thread adds, any thread may read `counts`.
    log: the logger of the caller. reasons: those that are in `counts` from the start. clock: seconds, monotonic.
    """

    def __init__(
        self,
        log: logging.Logger,
        interval_s: float,
        *,
        reasons: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = Counter(dict.fromkeys(reasons, 0))
        self._log = log
        self._interval_s = interval_s
        self._clock = clock
        self._logged_s: dict[tuple[str, str], float] = {}

    def add(self, reason: str, text: str, subject: str = "") -> None:
        """Count a failure. text: what is logged. subject: what failed, for example an address."""
        self.counts[reason] += 1
        now_s = self._clock()
        if now_s - self._logged_s.get((reason, subject), float("-inf")) >= self._interval_s:
            self._logged_s[reason, subject] = now_s
            times = self.counts[reason]
            self._log.warning("%s%s", text, f" ({times} times in all)" if times > 1 else "")
