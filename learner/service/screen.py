"""Shows a run to a person: in a live line on a terminal, in plain lines elsewhere, not at all under --json."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

from rich.console import Console

from learner.loop import StepReport, Waiting
from stream.host.printing import log_with
from stream.host.progress import Progress

SHORT_WAIT_S = 1.0
"""A shorter wait between two steps is normal for a stream and is not shown."""


class Screen(Progress):
    """Shows steps, waits and probes."""

    _step_s = 0.0
    _last_step = ""
    _probe = ""

    def step(self, report: StepReport, batch_size: int, status: str) -> None:
        """Show a step. status: how far the run is, as text."""
        took_s = report.busy_s + report.waited_s
        self._step_s = 0.9 * self._step_s + 0.1 * took_s if self._step_s else took_s
        rate = batch_size / self._step_s if self._step_s else 0.0
        gauges = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in report.gauges.items())
        if report.refused:
            gauges = f"refused: not finite on {len(report.refused)} pairs"
        loss = f"loss {report.loss:.3f}{self._probe}"
        self._last_step = f"{status}  step {report.step}  {rate:.0f} samples/s  {loss}  {gauges}"
        self.update(lambda: self._last_step)

    def waiting(self, event: Waiting, why: str) -> None:
        """Show that the learner waits. why: the things it waits for, as text."""
        if event.waited_s >= SHORT_WAIT_S:
            self.update(lambda: f"waiting for {why} ({event.waited_s:.0f} s so far)")
        else:
            self.show(self._last_step)  # in place of slow work that has ended

    def probed(self, step: int, control: str, encoder: str, result: Mapping[str, float]) -> None:
        """Print a line for a probe; the last one of the student remains visible beside the loss."""
        if encoder == "student":
            self._probe = f"  {control} k-NN {result['knn']:.3f}"
        self.log(f"probe  step {step}  {control}  {encoder}  k-NN {result['knn']:.3f}  linear {result['linear']:.3f}")


def log_to(console: Console) -> None:
    """Send warnings to stderr; on a terminal through the console, so that they do not break the live line."""
    log_with(_Lines(console) if console.is_terminal and sys.stderr.isatty() else logging.StreamHandler())


class _Lines(logging.Handler):
    """Prints each record as a line of the console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        self._console.print(self.format(record), soft_wrap=True, highlight=False, markup=False)
