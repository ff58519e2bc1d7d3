"""How fast are recordings written and read? Against the goals, against plain files and against the public `mcap` package.

The pairs are 720p, 2 x 179 kB. All rows take turns in each round and the medians are reported. Files stay in the page cache: the
format is measured, not the disk, so the sync at the end is not included. Our reading verifies every checksum; the public package
does so only in its last row.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from mcap.records import Message
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer
from rich.table import Table

from benchmarks.shared.bench import Bench, Goal, RoundsSettings, figure_table, in_turns, medians, seconds_of
from benchmarks.shared.bounds import Count
from benchmarks.shared.pairs import EYE_BYTES, jpeg_sized_pairs, renumbered
from stream.errors import EndOfStream
from stream.pair import EncodedPair
from stream.recording.payload import COMPRESSED
from stream.recording.source import RecordingSource
from stream.recording.writer import RecordingWriter

GOALS_MB_S = {"write": 580, "read": 2800}
RECEIVE_PAIRS = 16
VIEWS = 8


@dataclass(frozen=True, kw_only=True)
class RecordingSettings(RoundsSettings):
    """Measure the speed of writing and reading recordings."""

    rounds: Count = 7
    """Rounds in which every row takes its turn; the median is reported."""
    pairs: Count = 600
    """Pairs in a file."""
    folder: Path | None = None
    """Where the files are written; by default a temporary folder."""


def measure(settings: RecordingSettings) -> dict[str, Any]:
    """Return the megabytes (10^6 bytes) of images per second of each row."""
    with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
        rates = _rates(settings, Path(folder))
    figures = medians(rates)
    return {
        "mb_s": figures,
        "range_mb_s": {name: [round(min(found)), round(max(found))] for name, found in rates.items()},
        "goals_mb_s": GOALS_MB_S,
        **{f"{kind}_goal_met": figures[f"{kind}: recording"] >= goal for kind, goal in GOALS_MB_S.items()},
    }


def render(_settings: RecordingSettings, figures: dict[str, Any]) -> list[Table]:
    """Return one table of the figures."""
    rows = {name: (str(rate), "{} - {}".format(*figures["range_mb_s"][name])) for name, rate in figures["mb_s"].items()}
    return [figure_table("images through a recording, one thread", ("row", "median MB/s", "range"), rows)]


def goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """Yield the goals for the speed of writing and reading."""
    for kind, bound in GOALS_MB_S.items():
        yield Goal(f"{kind}, MB/s", figures["mb_s"][f"{kind}: recording"], bound, at_least=True)


COMMAND = Bench(RecordingSettings, measure, render, goals)


def _rates(settings: RecordingSettings, folder: Path) -> dict[str, list[float]]:
    """Return the MB of images per second of each row in each round."""
    views = jpeg_sized_pairs(VIEWS)
    pairs = [renumbered(views[seq % VIEWS], seq, seq) for seq in range(settings.pairs)]
    plain, ours, public = paths = folder / "plain", folder / "ours.mcap", folder / "public.mcap"
    rows: dict[str, Callable[[], float]] = {
        "write: plain file": lambda: _write_plain(plain, pairs),
        "write: recording": lambda: _write_ours(ours, pairs),
        "write: mcap package": lambda: _write_public(public, pairs),
        "read: plain file": _timed(_read_plain, plain, bytearray(1 << 20)),
        "read: recording": _timed(_read_ours, ours, 1),
        f"read: recording, {RECEIVE_PAIRS} pairs at a time": _timed(_read_ours, ours, RECEIVE_PAIRS),
        "read: mcap package, unchecked": _timed(_read_public, public, checked=False),
        "read: mcap package": _timed(_read_public, public, checked=True),
    }
    megabytes = settings.pairs * 2 * EYE_BYTES / 1e6
    seconds = in_turns(rows, settings.rounds, before=partial(_remove, paths))
    return {name: [megabytes / took_s for took_s in found] for name, found in seconds.items()}


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _timed(read: Callable[..., None], *arguments: object, **named: object) -> Callable[[], float]:
    return partial(seconds_of, partial(read, *arguments, **named))


def _write_plain(path: Path, pairs: Sequence[EncodedPair]) -> float:
    """Write the images to plain files, for comparison; return the seconds."""
    with path.open("xb", buffering=0) as file:
        return seconds_of(lambda: [os.writev(file.fileno(), [pair.left, pair.right]) for pair in pairs])


def _write_ours(path: Path, pairs: Sequence[EncodedPair]) -> float:
    with RecordingWriter(path) as writer:
        started_s = time.perf_counter()
        for pair in pairs:
            writer.write(pair)
        return time.perf_counter() - started_s


def _write_public(path: Path, pairs: Sequence[EncodedPair]) -> float:
    with path.open("xb") as file:
        writer = Writer(file, compression=CompressionType.NONE)
        writer.start()
        schema = writer.register_schema(COMPRESSED.name, COMPRESSED.schema_encoding, COMPRESSED.data)
        left, right = (writer.register_channel(topic, "protobuf", schema) for topic in ("/left", "/right"))
        started_s = time.perf_counter()
        for pair in pairs:
            for channel, data in ((left, pair.left), (right, pair.right)):
                message = CompressedImage(data=data, format="jpeg", frame_id="bench")
                message.timestamp.FromNanoseconds(pair.header.left_ns)
                writer.add_message(channel, pair.header.left_ns, message.SerializeToString(), pair.header.left_ns)
        seconds = time.perf_counter() - started_s
        writer.finish()  # type: ignore[no-untyped-call]
    return seconds


def _read_plain(path: Path, buffer: bytearray) -> None:
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _read_ours(path: Path, limit: int) -> None:
    with closing(RecordingSource([path])) as source, suppress(EndOfStream):
        while True:
            source.receive(limit, 0.0)


def _read_public(path: Path, *, checked: bool) -> None:
    with path.open("rb") as file:
        for record in StreamReader(file, validate_crcs=checked).records:
            if isinstance(record, Message):
                _ = CompressedImage.FromString(record.data).data
