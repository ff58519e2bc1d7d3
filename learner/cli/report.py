"""`python -m learner report RUN [RUN ...]`: the report of a run again, or several runs compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from learner.errors import SettingsError
from learner.report.compare import write_comparison
from learner.report.report import write_report

DESCRIPTION = """A run as one HTML file that needs nothing else, or several runs compared.

  python -m learner report runs/rig                       writes runs/rig/report.html
  python -m learner report runs/a runs/b --out ab.html    settings that differ, figures and probes side by side, curves overlaid

The report of one run: what it learned, probes over time, by day of the stream and on turned images, curves of training,
where each attention head looks, the pairs as received, those with the highest and lowest loss, and a stretch of the stream
as a matrix of distances and a map. It is built from the run's folder alone, of a run that has ended; what is missing or
damaged is said in its place. A comparison also takes runs that are at work.
Exit codes: 0 done, 1 failed on the way, 2 wrong settings."""


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Report on runs."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders of runs: one to report on, two to eight to compare."""
    out: Path | None = None
    """The file to write; None is report.html in the folder of the one run, or comparison.html here."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise SettingsError("report needs the folder of a run: python -m learner report RUN")


def run(words: Sequence[str]) -> str:
    """Write the file and return its path. Raises LearnerError for what is no run."""
    settings = tyro.cli(ReportSettings, prog="python -m learner report", args=list(words), description=DESCRIPTION)
    if len(settings.runs) == 1:
        return str(write_report(settings.runs[0], settings.out))
    return str(write_comparison(settings.runs, settings.out or Path("comparison.html")))
