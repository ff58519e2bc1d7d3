"""What the learner says while it works: one live line on a terminal, plain lines elsewhere, nothing under --json."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.status import Status

from learner.loop import StepReport, Waiting

LINE_EVERY_S = 5.0
"""Seconds between plain lines where there is no terminal."""


class Screen:
    """Shows steps, waits and events. On a terminal the line is redrawn; in a log a line comes every few seconds."""

    def __init__(self, console: Console, clock: Callable[[], float], *, quiet: bool = False) -> None:
        self._console = console
        self._clock = clock
        self._quiet = quiet
        self._status: Status | None = None
        if console.is_terminal and not quiet:
            self._status = console.status("starting")
            self._status.start()
        self._next_line = clock()
        self._rate = 0.0

    def step(self, report: StepReport, batch_size: int, progress: str) -> None:
        """Show a step; `progress` is how far the run is towards its limit."""
        elapsed = report.busy_s + report.waited_s
        rate = batch_size / elapsed if elapsed else 0.0
        self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate
        gauges = " ".join(f"{name} {value:.3g}" for name, value in report.gauges.items())
        self._line(
            f"{progress}step {report.step}  pairs {report.received}  {self._rate:.0f} samples/s  "
            f"loss {report.loss:.3f}  {gauges}"
        )

    def waiting(self, event: Waiting, why: str) -> None:
        """Show that the learner waits, and for what."""
        self._line(f"waiting {event.waited_s:.0f} s for {why}")

    def say(self, text: str) -> None:
        """An event worth a line of its own."""
        if not self._quiet:
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Give the terminal back."""
        if self._status is not None:
            self._status.stop()

    def _line(self, text: str) -> None:
        if self._quiet:
            return
        if self._status is not None:
            self._status.update(text)
        elif self._clock() >= self._next_line:
            self._next_line = self._clock() + LINE_EVERY_S
            self.say(text)
