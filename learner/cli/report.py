"""`python -m learner report RUN [RUN ...]` writes the report of a run again, or compares several runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from learner.distributed.collectives import require_alone
from learner.errors import SettingsError
from learner.report.compare import write_comparison
from learner.report.report import write_report
from stream.host.command import Command
from stream.host.program import Result, Stop
from stream.host.typed import here

DESCRIPTION = """Write a run as one HTML file without outside resources, or compare several runs.

  python -m learner report runs/rig                       writes runs/rig/report.html
  python -m learner report runs/a runs/b --out ab.html    settings that differ, figures, probes and curves of both
  python -m learner report runs/a-* runs/b-*              means over seeds with intervals; the numbers are in a CSV beside it

The report of one run has its probes over time, by day of the stream and on rotated images, curves of training, views with the
attention of each head, received pairs, the pairs of the highest and lowest priority, and the newest pairs as a matrix of
cosines and a map. It needs only the run directory of a run that has ended, and names files that are missing or damaged.
Runs that are still at work can be compared too.
Exit codes: 0 done, 1 failed on the way, 2 wrong settings."""


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Report on runs."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run directories: one to report on, several to compare: at most eight kinds, each in any number of seeds."""
    out: Path | None = None
    """The file to write; None means report.html in the run directory, or comparison.html beside the first run."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise SettingsError(f"report needs a run directory: {here('learner', 'report')} RUN")


def run(settings: ReportSettings, stop: Stop) -> Result:
    """Write the file and print its path. Raises LearnerError for a folder that is no run directory."""
    require_alone("report")
    if len(settings.runs) == 1:
        return Result(str(write_report(settings.runs[0], settings.out)))
    html, numbers = write_comparison(settings.runs, settings.out or settings.runs[0].parent / "comparison.html")
    return Result(f"{html}\n{numbers}")


COMMAND = Command(run=run, settings=ReportSettings, description=DESCRIPTION)
