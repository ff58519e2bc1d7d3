"""The state of a running rig, for a person, for systemd and for Prometheus."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict

from device.cli.settings import format_counts
from device.metrics import DeviceMetrics
from device.spool.spool import Spool
from stream.host.progress import Progress
from stream.host.systemd import Supervisor
from stream.live.publisher import Publisher

WINDOW_S = 10.0
"""The rate that is shown is that of so many seconds."""
SAMPLE_S = 0.5


class RecentRate:
    """Events per second during the last WINDOW_S. clock: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen = deque[tuple[float, int]]()

    def see(self, count: int) -> None:
        """Note how many events there were so far; call it often."""
        now_s = self._clock()
        if not self._seen or now_s - self._seen[-1][0] >= SAMPLE_S:
            self._seen.append((now_s, count))
        while len(self._seen) > 2 and now_s - self._seen[1][0] >= WINDOW_S:
            self._seen.popleft()

    def per_s(self, count: int) -> float:
        """Return the rate up to now, when there were so many."""
        if not self._seen:
            return 0.0
        since_s, before = self._seen[0]
        return (count - before) / max(self._clock() - since_s, SAMPLE_S)


class Status:
    """Reports the counts of a rig at intervals and at its end."""

    def __init__(
        self,
        metrics: DeviceMetrics,
        publisher: Publisher,
        spool: Spool | None,
        supervisor: Supervisor,
        progress: Progress,
    ) -> None:
        self._metrics, self._publisher, self._spool = metrics, publisher, spool
        self._supervisor, self._progress = supervisor, progress
        self._started_s = time.monotonic()
        self._rate = RecentRate()

    def restart(self) -> None:
        """Measure the time from now on, because the first shot is taken now."""
        self._started_s = time.monotonic()

    def update(self, doing: str = "") -> None:
        """Report the counts if the last report is long enough ago.

        doing: what the rig does instead of taking shots; empty if it takes shots.
        """
        self._rate.see(self._metrics.counts().captured)
        self._supervisor.alive(lambda: doing or self._describe())
        if self._progress.update(lambda: doing or self._describe()):
            self._metrics.subscribers.set(self._publisher.subscribers())
            if self._spool is not None:
                self._spool.tend()

    def summary(self) -> dict[str, float]:
        """Return the counts, and the number of pairs captured per second."""
        seconds = time.monotonic() - self._started_s
        counts = self._metrics.counts()
        summary = asdict(counts) | {"sent": self._publisher.sent}
        if self._spool is not None:
            spool = self._spool.stats()
            summary |= {"backlog": spool.backlog, "lost": sum(spool.lost.values()), "unspooled": spool.unspooled}
        return summary | {"seconds": round(seconds, 3), "pairs_per_s": round(counts.captured / seconds, 2)}

    def _describe(self) -> str:
        summary = self.summary()
        counts = {name: summary[name] for name in asdict(self._metrics.counts())}
        backlog = f", backlog {summary['backlog']}" if "backlog" in summary else ""
        rate = f"{self._rate.per_s(self._metrics.counts().captured):.1f} pairs/s, subscribers {self._publisher.subscribers()}"
        return f"{format_counts(counts)}, {rate}{backlog}"
