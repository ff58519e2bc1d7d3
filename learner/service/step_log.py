"""Writes steps.jsonl while a run goes on."""

from __future__ import annotations

import dataclasses
import logging

from learner.loop import StepReport
from learner.runs.folder import RunDirectory
from learner.runs.reading import Line
from learner.service.timing import is_logged

log = logging.getLogger(__name__)

_NOT_LOGGED = ("gauges", "fresh")


class StepLog:
    """Writes a line for each step, in a long run for some of them. Where the disk refuses it, training goes on without it."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._missing = 0

    def write(self, report: StepReport, elapsed_s: float) -> None:
        """Write the line of a step that is logged (`is_logged`), was refused or was followed by a rollback; ignore others."""
        if not (report.refused or report.rolled_back or is_logged(report.step)):
            return
        try:
            self._directory.append("steps", {**_line(report), "seconds": elapsed_s})
        except OSError as error:
            self._missing += 1
            if self._missing & (self._missing - 1) == 0:  # the 1st, 2nd, 4th, ...
                log.warning("step %d has no line in steps.jsonl, %d so far: %s", report.step, self._missing, error)


def _line(report: StepReport) -> Line:
    names = (spec.name for spec in dataclasses.fields(report) if spec.name not in _NOT_LOGGED)
    return {name: getattr(report, name) for name in names} | report.gauges
