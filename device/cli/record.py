"""`python -m device record`: write the pairs of a camera into a file, without a network and without a spool."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from device.cameras.spec import redacted
from device.cli.capture_settings import Bound, RigSettings
from device.cli.local import open_local
from device.cli.settings import format_counts
from device.metrics import DeviceMetrics
from device.source import CameraSource
from stream.calibration.align import calibration_in
from stream.calibration.camera_info import rectified_messages
from stream.calibration.rectify import rectified
from stream.errors import EndOfStream, StreamError, reported_as
from stream.host.command import Command
from stream.host.program import ExitCode, Result, Stop
from stream.host.progress import Progress, format_bytes
from stream.pair import Header
from stream.recording.writer import RecordingWriter, next_file

SYNC_S = 1.0
"""Seconds between two syncs: a power cut costs at most the pairs of this time."""
RECEIVE_S = 0.2
RECEIVE_PAIRS = 64
MAX_DURATION_S = 1e7

DESCRIPTION = """Record the pairs of a camera into an MCAP file, in one process: no network, no keys, no spool.

  python -m device record --camera v4l2:0,2 --out walk.mcap --duration 600
  python -m device record --camera dir:LEFT,RIGHT --out drive.mcap          two folders, as fast as they can be read
  python -m device record --camera dir:PHOTOGRAPHS --dedupe off --out album.mcap      one camera: each image is both eyes

Ctrl-C ends it cleanly. If the file is there already, walk-2.mcap, walk-3.mcap ... are written, as by `python -m stream record`.
`python -m learner --replay`, `python -m stream info` and Foxglove open the file."""


@dataclass(frozen=True, kw_only=True)
class RecordSettings(RigSettings):
    """Record the pairs of a camera."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The recording to write; if it exists, FILE-2, FILE-3 ... are."""
    duration: Annotated[float | None, tyro.conf.arg(metavar="S")] = None
    """Stop after so many seconds."""
    json: bool = False
    """End with one line of JSON on the standard output."""

    def bounds(self) -> Iterator[Bound]:
        """See CaptureSettings."""
        yield from super().bounds()
        yield "--duration", self.duration, 0.001, MAX_DURATION_S, " seconds"


def run(settings: RecordSettings, stop: Stop) -> Result:
    """Record until the camera ends, for the duration, or until `stop`. Raises CameraError, StreamError, OSError or ValueError."""
    metrics = DeviceMetrics()
    path, _ = next_file(settings.out)
    with (
        Progress() as progress,
        closing(open_local(settings, metrics=metrics)) as source,
        reported_as(StreamError, str(path), ": choose another --out"),
        RecordingWriter(path) as writer,
    ):
        progress.log(f"recording {redacted(settings.camera)} to {path}")
        _record(source, writer, settings, stop, progress)
    counts = asdict(metrics.counts())
    if not writer.pairs:
        with suppress(OSError):
            writer.path.unlink()
        return Result(f"no pair was kept, so there is no file: {format_counts(counts)}", counts, ExitCode.FAILED)
    text = f"{writer.pairs} pairs, {format_bytes(writer.file_bytes)} in {writer.path}; {format_counts(counts)}"
    figures = {"file": str(writer.path), "pairs": writer.pairs, "file_bytes": writer.file_bytes}
    return Result(text, figures | counts)


def _record(
    source: CameraSource, writer: RecordingWriter, settings: RecordSettings, stop: Stop, progress: Progress
) -> None:
    duration_s, calibrated = settings.duration, not settings.rectify
    synced_s = started_s = time.monotonic()
    with suppress(EndOfStream):
        while not stop.is_set() and (duration_s is None or time.monotonic() - started_s < duration_s):
            for pair in source.receive(RECEIVE_PAIRS, RECEIVE_S):
                writer.write(pair)
                if not calibrated:
                    _write_calibration(writer, settings.rectify, pair.header)
                    calibrated = True
            if time.monotonic() - synced_s >= SYNC_S:
                writer.sync()
                synced_s = time.monotonic()
            progress.update(lambda: f"{writer.pairs} pairs, {format_bytes(writer.file_bytes)}")
    stop.hold()  # the file is being closed


def _write_calibration(writer: RecordingWriter, rectify: Sequence[Path], header: Header) -> None:
    """Add the calibration that the images have once they are rectified."""
    known = rectified(calibration_in(rectify), (header.height, header.width))
    writer.write_calibration(header, *rectified_messages(known, header))


COMMAND = Command(run=run, settings=RecordSettings, description=DESCRIPTION, check=RecordSettings.check)
