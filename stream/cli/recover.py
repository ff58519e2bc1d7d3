"""The command `python -m stream recover`: writes the readable part of a damaged recording into a clean file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from stream.errors import StreamError, reported_as
from stream.host.command import Command
from stream.host.program import Result, Stop
from stream.host.progress import Progress, format_bytes
from stream.recording.foreign import EyeTopics
from stream.recording.reader import RecordingReader, open_recording
from stream.recording.writer import RecordingWriter

DESCRIPTION = """Write the readable part of a recording into a clean one; the first is not changed.

  python -m stream recover cut.mcap whole.mcap
  python -m stream recover othertool.mcap ours.mcap --left /cam0 --right /cam1     another tool's images as pairs"""


@dataclass(frozen=True, kw_only=True)
class RecoverSettings:
    """Write the readable part of a recording into a clean one."""

    damaged: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """The damaged recording."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The clean recording; the file must not exist yet."""
    topics: Annotated[EyeTopics, tyro.conf.arg(name="")] = field(default_factory=EyeTopics)
    json: bool = False
    """End with one line of JSON on the standard output."""


def run(settings: RecoverSettings, stop: Stop) -> Result:
    """Recover a recording. Raises StreamError if the clean file cannot be made, or is there already."""
    with (
        open_recording(settings.damaged, settings.topics) as recording,
        Progress() as progress,
    ):
        with reported_as(StreamError, str(settings.out), ": choose another name for the clean file"):
            writer = RecordingWriter(settings.out)
        try:
            pairs = recover(recording, writer, progress, stop)
        except BaseException:
            settings.out.unlink()
            raise
    figures = {"file": str(settings.out), "pairs": pairs, "file_bytes": writer.file_bytes}
    return Result(f"{pairs} pairs, {format_bytes(writer.file_bytes)} in {settings.out}", figures)


def recover(recording: RecordingReader, writer: RecordingWriter, progress: Progress, stop: Stop) -> int:
    """Copy all pairs and receipts and close the new file; return their number.

    Raises InterruptedError on `stop`, and OSError if there is no room or nothing to copy.
    """
    with writer:
        for pair in recording:
            if stop.is_set():
                raise InterruptedError("interrupted, nothing was written")
            writer.write(pair)
            progress.update(lambda: f"{writer.pairs} pairs")
        for receipt in recording.receipts.all():
            writer.write_receipt(receipt)
    if not writer.pairs:
        why = recording.why_empty() or f"{recording.name}: no pair can be read of it"
        raise OSError(f"{why}, so nothing was written")
    return writer.pairs


COMMAND = Command(run=run, settings=RecoverSettings, description=DESCRIPTION)
