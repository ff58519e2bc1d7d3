"""How fast are recordings written and read? Against the goals, against plain files and against the public `mcap` package.

The work: 720p pairs of 2 x 179 kB. All rows take turns in each round and the medians are reported. Files stay in the page
cache: what is timed is the format, not the disk, so the sync at the end is outside the time. Our reading verifies every
checksum; the public package does so only in its last row.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import msgspec
import numpy as np
import tyro
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from mcap.records import Message
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer
from rich.console import Console
from rich.table import Table

from stream.errors import EndOfStream
from stream.pair import EncodedPair, Header
from stream.recording.payload import COMPRESSED
from stream.recording.source import RecordingSource
from stream.recording.writer import RecordingWriter

EYE_BYTES = 179_000
GOALS_MB_S = {"write": 580, "read": 2800}
RECEIVE_PAIRS = 16


@dataclass(frozen=True, kw_only=True)
class RecordingSettings:
    """Time writing and reading of recordings."""

    rounds: int = 7
    """Rounds in which every row takes its turn; the median is reported."""
    pairs: int = 600
    """Pairs in a file."""
    folder: Path | None = None
    """Where the files are written; by default a temporary folder."""
    json: bool = False
    """One JSON object instead of the table."""


def main(arguments: Sequence[str]) -> int:
    """Time all rows and print them; 1 where a goal is missed."""
    settings = tyro.cli(RecordingSettings, args=list(arguments), prog="python -m benchmarks recording")
    if min(settings.rounds, settings.pairs) < 1:
        raise ValueError("rounds and pairs must be at least 1")
    with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
        rates = _rates(settings, Path(folder))
    figures = {name: round(statistics.median(found)) for name, found in rates.items()}
    goals = {f"{kind}_goal_met": figures[f"{kind}: recording"] >= goal for kind, goal in GOALS_MB_S.items()}
    if settings.json:
        ranges = {name: [round(min(found)), round(max(found))] for name, found in rates.items()}
        sys.stdout.write(json.dumps({"mb_s": figures, "range_mb_s": ranges, "goals_mb_s": GOALS_MB_S} | goals) + "\n")
    else:
        Console().print(_table(rates))
    return 0 if all(goals.values()) else 1


def _rates(settings: RecordingSettings, folder: Path) -> dict[str, list[float]]:
    """MB of images a second, of each row in each round."""
    pairs = list(_pairs(settings.pairs))
    plain, ours, public = folder / "plain", folder / "ours.mcap", folder / "public.mcap"
    rows: dict[str, Callable[[], float]] = {
        "write: plain file": lambda: _write_plain(plain, pairs),
        "write: recording": lambda: _write_ours(ours, pairs),
        "write: mcap package": lambda: _write_public(public, pairs),
        "read: plain file": lambda: _read_plain(plain),
        "read: recording": lambda: _read_ours(ours, 1),
        f"read: recording, {RECEIVE_PAIRS} pairs at a time": lambda: _read_ours(ours, RECEIVE_PAIRS),
        "read: mcap package, unchecked": lambda: _read_public(public, checked=False),
        "read: mcap package": lambda: _read_public(public, checked=True),
    }
    megabytes = settings.pairs * 2 * EYE_BYTES / 1e6
    rates: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(settings.rounds):
        for path in (plain, ours, public):
            path.unlink(missing_ok=True)
        for name, row in rows.items():
            rates[name].append(megabytes / row())
    return rates


def _pairs(count: int) -> Iterator[EncodedPair]:
    """Pairs of noise: nothing of a JPEG is looked at on this way."""
    images = [np.random.default_rng(number).bytes(EYE_BYTES) for number in range(8)]
    header = Header(
        device="bench",
        epoch="0" * 32,
        seq=0,
        left_ns=0,
        right_ns=0,
        height=720,
        width=1280,
        channels=3,
        codec="jpeg",
        crc=0,
    )
    for seq, left in enumerate(islice(cycle(images), count)):
        right = images[(seq + 3) % len(images)]
        changed = msgspec.structs.replace(
            header, seq=seq, left_ns=seq, right_ns=seq, crc=zlib.crc32(right, zlib.crc32(left))
        )
        yield EncodedPair(changed, left, right)


def _write_plain(path: Path, pairs: Sequence[EncodedPair]) -> float:
    """Seconds, as of all rows."""
    with path.open("xb", buffering=0) as file:
        started_s = time.perf_counter()
        for pair in pairs:
            os.writev(file.fileno(), [pair.left, pair.right])
        return time.perf_counter() - started_s


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


def _read_plain(path: Path) -> float:
    buffer = bytearray(1 << 20)
    started_s = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - started_s


def _read_ours(path: Path, limit: int) -> float:
    started_s = time.perf_counter()
    with closing(RecordingSource([path])) as source, suppress(EndOfStream):
        while True:
            source.receive(limit, 0.0)
    return time.perf_counter() - started_s


def _read_public(path: Path, *, checked: bool) -> float:
    started_s = time.perf_counter()
    with path.open("rb") as file:
        for record in StreamReader(file, validate_crcs=checked).records:
            if isinstance(record, Message):
                _ = CompressedImage.FromString(record.data).data
    return time.perf_counter() - started_s


def _table(rates: dict[str, list[float]]) -> Table:
    table = Table("what", "median MB/s", "range", "goal", title="images through a recording, one thread")
    for name, found in rates.items():
        kind, what = name.split(": ")
        goal = str(GOALS_MB_S[kind]) if what == "recording" else ""
        table.add_row(name, f"{statistics.median(found):.0f}", f"{min(found):.0f} - {max(found):.0f}", goal)
    return table
