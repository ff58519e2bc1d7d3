"""The state of a running rig, for a person, for systemd and for Prometheus."""

from __future__ import annotations

import time
from dataclasses import asdict

from device.cli.settings import format_counts
from device.metrics import DeviceMetrics
from device.spool.spool import Spool
from stream.host.progress import Progress
from stream.host.systemd import Supervisor
from stream.live.publisher import Publisher


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

    def restart(self) -> None:
        """Measure the time from now on, because the first shot is taken now."""
        self._started_s = time.monotonic()

    def update(self, doing: str = "") -> None:
        """Report the counts if the last report is long enough ago.

        doing: what the rig does instead of taking shots; empty if it takes shots.
        """
        self._supervisor.alive(lambda: doing or self._describe())
        if self._progress.update(lambda: doing or self._describe()):
            self._metrics.subscribers.set(self._publisher.subscribers())

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
        rate = f"{summary['pairs_per_s']:.1f} pairs/s, subscribers {self._publisher.subscribers()}"
        return f"{format_counts(counts)}, {rate}{backlog}"
