"""Describes in words how far a run is and what it waits for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from learner.loop import StepReport, Waiting
from stream.stats import SILENT_S, DeviceStats, SourceStats


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The state of a run at one moment. Times are in seconds, those of devices on the same clock as `now_s`."""

    now_s: float
    started_s: float
    trained_s: float
    """Seconds since this process received its first pair."""
    limit_s: float | None
    """Training ends by itself after so many of these seconds; None: it does not."""
    received: int
    """Pairs."""
    stats: SourceStats | None = None
    """Statistics of a live stream; None for another source."""
    backlog: int = 0
    """Pairs that have arrived and wait to be received."""

    def describe(self, event: StepReport | Waiting) -> str:
        """Return one line about the last event."""
        if isinstance(event, Waiting):
            return f"waiting for {self.missing(event)}"
        return f"step {event.step}  loss {event.loss:.3f}  {self}"

    def missing(self, event: Waiting) -> str:
        """Return what the learner waits for, and which devices are silent."""
        pairs = f"{event.wanted} more pair{'s' if event.wanted != 1 else ''} for the next step"
        if self.stats is None:
            return pairs
        if not self.stats.devices:
            return f"a device at {', '.join(self.stats.endpoints)}"
        silent = [
            f"{name} for {quiet_s:.0f} s"
            for name, device in self.stats.devices.items()
            if (quiet_s := self._silent_s(device)) >= SILENT_S
        ]
        return f"{pairs}; nothing from {', '.join(silent[:4])}" if silent else pairs

    def _silent_s(self, device: DeviceStats) -> float:
        """Return the seconds since a device was heard, or since this process began; 0 if its stream is over."""
        if device.last_heard_s is None:
            return self.now_s - self.started_s
        return device.silent_s(self.now_s) or 0.0

    def __str__(self) -> str:
        limit = "" if self.limit_s is None else f"/{self.limit_s:.0f}"
        return f"{self.trained_s:.0f}{limit} s  pairs {self.received}{self._not_trained_on()}"

    def _not_trained_on(self) -> str:
        if self.stats is None:
            return ""
        counts = {"lost": self.stats.lost, "to come": self.stats.pending, "waiting here": self.backlog}
        some = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
        return f" ({some})" if some else ""
