"""What the learner says while it works: one live line on a terminal, plain lines elsewhere, nothing under --json.

On a terminal log lines go through the same console (`log_to`), which prints them above the live line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.text import Text

from learner.loop import StepReport, Waiting

LINE_EVERY_S = 5.0
"""Seconds between plain lines where there is no terminal."""
SHORT_WAIT_S = 1.0
"""A shorter wait between two steps is the stream's pace and not worth a word."""


class Screen:
    """Shows steps, waits and events. On a terminal the line is redrawn; in a log a line comes every few seconds."""

    def __init__(self, console: Console, clock: Callable[[], float], *, quiet: bool = False) -> None:
        self._console = console
        self._clock = clock
        self._quiet = quiet
        self._live: Live | None = None
        if console.is_terminal and not quiet:
            self._live = Live(console=console, transient=True, refresh_per_second=8)
            self._live.start()
        self._next_line_s = clock()
        self._step_s = 0.0
        self._last_step = ""
        self._probe = ""

    def step(self, report: StepReport, batch_size: int, progress: str) -> None:
        """Show a step; `progress` is how far the run is, and what was lost."""
        took_s = report.busy_s + report.waited_s
        self._step_s = 0.9 * self._step_s + 0.1 * took_s if self._step_s else took_s
        rate = batch_size / self._step_s if self._step_s else 0.0
        gauges = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in report.gauges.items())
        if report.refused:
            gauges = f"refused: not finite on {len(report.refused)} pairs"
        self._last_step = (
            f"{progress}  step {report.step}  {rate:.0f} samples/s  loss {report.loss:.3f}{self._probe}  {gauges}"
        )
        self._line(self._last_step)

    def waiting(self, event: Waiting, why: str) -> None:
        """Show that the learner waits, and for what."""
        if event.waited_s >= SHORT_WAIT_S:
            self._line(f"waiting {event.waited_s:.0f} s for {why}")
        elif self._live is not None:  # in place of what `doing` showed
            self._live.update(_one_line(self._last_step))

    def probed(self, step: int, control: str, who: str, result: Mapping[str, float]) -> None:
        """A line for each probe; the student's last one stays in sight beside the loss."""
        if who == "student":
            self._probe = f"  {control} k-NN {result['knn']:.3f}"
        self.say(f"probe  step {step}  {control}  {who}  k-NN {result['knn']:.3f}  linear {result['linear']:.3f}")

    def say(self, text: str) -> None:
        """An event worth a line of its own."""
        if not self._quiet:
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def doing(self, text: str) -> None:
        """Work that takes a while, in place of the steps: shown on a terminal only."""
        if self._live is not None:
            self._live.update(_one_line(text))

    def close(self) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()

    def _line(self, text: str) -> None:
        if self._live is not None:
            self._live.update(_one_line(text))
        elif self._clock() >= self._next_line_s:
            self._next_line_s = self._clock() + LINE_EVERY_S
            self.say(text)


def log_to(console: Console) -> None:
    """Log warnings: through the console where both are on a terminal, so as not to tear the live line; else to stderr."""
    if console.is_terminal and sys.stderr.isatty():
        handler = RichHandler(console=console, show_path=False, omit_repeated_times=False)
        logging.basicConfig(level=logging.WARNING, format="%(name)s %(message)s", handlers=[handler])
    else:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")


def _one_line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
