"""The command `python -m stream record`: writes the pairs of rigs into a file, each once, and acknowledges durable ones."""

from __future__ import annotations

import hashlib
import logging
import platform
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from stream.errors import EndOfStream, MalformedMessage, StreamError, reported_as
from stream.host.command import Command
from stream.host.program import Result, Stop
from stream.host.progress import Progress, format_bytes
from stream.identity_set import IdentitySet
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair
from stream.recording.reader import open_recording
from stream.recording.receipts import Receipts
from stream.recording.writer import RecordingWriter, next_file
from stream.source import Cursor, Source
from stream.transport.endpoint import security_for

log = logging.getLogger(__name__)

SYNC_S = 1.0
"""Seconds between two syncs: a power cut costs at most the pairs of this time, and rigs keep those until they are
acknowledged."""
RECEIVE_S = 0.2
RECEIVE_PAIRS = 64

DESCRIPTION = """Record the pairs that rigs publish into an MCAP file, which Foxglove, Rerun, `replay` and the learner open.

  python -m stream record --out walk.mcap                                   a rig on this machine
  python -m stream record --out walk.mcap --connect tcp://RIG:5555
  python -m stream record --out both.mcap --connect tcp://LEFT:5555 tcp://RIGHT:5555
  python -m stream record --out hour.mcap --duration 3600

Ctrl-C ends it cleanly. Rigs may start later, stop and return: a rig with a spool keeps the pairs that this recording does not
have yet, and they are pulled from it. After a crash they are kept for a week, after the end only with --come-back. If the file is
there already, its pairs are not recorded again, and the recording continues in walk-2.mcap, walk-3.mcap ..."""


@dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """Record the pairs that rigs publish."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The recording to write."""
    connect: tuple[str, ...] = ("tcp://127.0.0.1:5555",)
    """Addresses of the rigs."""
    keys: Path | None = None
    """Folder of the keys. By default the usual folder is used for an address on the network, and no keys for a loopback
    address."""
    insecure: bool = False
    """Use no keys across the network."""
    duration: Annotated[float | None, tyro.conf.arg(metavar="S")] = None
    """Stop after so many seconds."""
    come_back: bool = False
    """Let the rigs keep, for a week, the pairs that this recording does not have yet, because the same command will follow. By
    default a recording that ends by itself or by Ctrl-C is done, and its name is taken off the list of the rigs."""
    until_device_ends: bool = False
    """Stop when every rig has announced the end of its stream, instead of waiting for more."""
    json: bool = False
    """End with one line of JSON on the standard output."""

    def __post_init__(self) -> None:
        if self.duration is not None and not 0 < self.duration < float("inf"):
            raise ValueError(f"--duration must be more than 0 seconds, got {self.duration}")


def run(settings: RecordSettings, stop: Stop) -> Result:
    """Record until `stop`, for the duration, or until every rig has ended its stream."""
    with Progress() as progress:
        path, recorded, receipts = _first_free_path(settings.out, progress, stop)
        cursor = receipts.cursor(recorded.cursor()["devices"])
        with _subscriber(settings, cursor) as source:
            with reported_as(StreamError, str(path), ": choose another --out"):
                writer = RecordingWriter(path)
            progress.log(f"recording {', '.join(source.endpoints)} to {path}")

            def state() -> str:
                stats = source.stats()
                if not stats.devices:
                    return f"nobody answers at {', '.join(source.endpoints)}: start the rig, check its address and firewall"
                return f"{writer.pairs} pairs, {format_bytes(writer.file_bytes)}, lost {stats.lost}, missing {stats.pending}"

            is_over = _end(stop, settings.duration)
            try:
                record(source, writer, recorded, receipts, stop=is_over, on_round=lambda: progress.update(state))
            except OSError as error:
                raise OSError(f"{path}: {error.strerror or error}; {_finish(writer)}") from error
            except BaseException:
                _finish(writer)
                raise
            if not settings.come_back:
                source.leave()
            summary = _finish(writer)
            lost = sum(ranges.count for ranges in receipts.lost(recorded.cursor()["devices"]).values())
            file = str(writer.path) if writer.pairs or writer.lost else None
            figures = {"file": file, "pairs": writer.pairs, "file_bytes": writer.file_bytes, "lost": lost}
            return Result(f"{summary}; lost on the way: {lost}", figures)


def _end(stop: Stop, duration_s: float | None) -> Callable[[], bool]:
    """Return what says whether to stop. Once it does, no signal interrupts the closing of the file."""
    until_s = float("inf") if duration_s is None else time.monotonic() + duration_s

    def is_over() -> bool:
        if not stop.is_set() and time.monotonic() < until_s:
            return False
        stop.hold()
        return True

    return is_over


def _subscriber(settings: RecordSettings, cursor: Cursor) -> Subscriber:
    try:
        return Subscriber(
            settings.connect,
            consumer=consumer_name(settings.out),
            cursor=cursor,
            end_on_bye=settings.until_device_ends,
            security=security_for(settings.connect, keys=settings.keys, insecure=settings.insecure),
            insecure=settings.insecure,
        )
    except ValueError as error:
        raise StreamError(f"{settings.out} cannot be continued ({error}): choose another --out") from error


def record(
    source: Source,
    writer: RecordingWriter,
    recorded: IdentitySet,
    receipts: Receipts,
    *,
    stop: Callable[[], bool],
    on_round: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Write the pairs of a source that are not in `recorded`, until its end or `stop`, and acknowledge the durable ones.

    What the source knows beside them is written as receipts, in front of the acknowledgement. receipts: those of earlier files.
    Pairs that wait at the stop are written too. on_round: called after each batch. clock: seconds, monotonic.
    Raises OSError if the file cannot be written; all acknowledged pairs are in it.
    """
    committed_s = clock()
    with suppress(EndOfStream):
        while not stop():
            _write(source, source.receive(RECEIVE_PAIRS, RECEIVE_S), writer, recorded)
            if clock() - committed_s >= SYNC_S:
                _commit(source, writer, receipts)
                committed_s = clock()
            on_round()
        left = source.backlog()
        while left > 0 and (pairs := source.receive(left, 0.0)):
            _write(source, pairs, writer, recorded)
            left -= len(pairs)
    _commit(source, writer, receipts)


def consumer_name(out: Path) -> str:
    """Return the name under which rigs keep pairs for this recording, the same for all of its files.

    It is made of the recording's path and the name of this machine.
    """
    where = hashlib.blake2b(f"{platform.node()}:{out.resolve()}".encode(), digest_size=8).hexdigest()
    return f"record-{re.sub(r'[^A-Za-z0-9._-]', '-', out.stem)[:32]}-{where}"


def _write(source: Source, pairs: Sequence[EncodedPair], writer: RecordingWriter, recorded: IdentitySet) -> None:
    for pair in pairs:
        if pair.header in recorded:
            continue
        try:
            writer.write(pair)
        except MalformedMessage as error:
            log.warning("LOST pair=%s: %s", pair.header.name, error)
            source.spoil(pair.header)
        else:
            recorded.add(pair.header)


def _commit(source: Source, writer: RecordingWriter, receipts: Receipts) -> None:
    cursor = source.cursor()
    for receipt in receipts.update(cursor):
        writer.write_receipt(receipt)
    writer.sync()
    source.acknowledge(cursor)


def _first_free_path(out: Path, progress: Progress, stop: Stop) -> tuple[Path, IdentitySet, Receipts]:
    """Find the first free path among FILE, FILE-2, FILE-3 ...; return it, and what the earlier files hold: pairs and receipts.

    Raises InterruptedError on `stop`.
    """
    free, earlier = next_file(out)
    recorded, receipts = IdentitySet(), Receipts()
    for path in earlier:
        progress.log(f"reading which pairs {path} has")
        with open_recording(path) as recording:
            for pair in recording:
                recorded.add(pair.header)
                if stop.is_set():  # to go on with half of what is recorded would count the other half as lost
                    raise InterruptedError("interrupted while reading the earlier files, nothing was recorded")
            for receipt in recording.receipts.all():
                receipts.add(receipt)
    return free, recorded, receipts


def _finish(writer: RecordingWriter) -> str:
    """Close the file, or remove it if it holds and names no pair; returns a description of its content."""
    with suppress(OSError):  # no room for the index either: the file is read without it
        writer.close()
    if not writer.pairs and not writer.lost:
        writer.path.unlink(missing_ok=True)
        return "no pair was received, so there is no file"
    return f"{writer.pairs} pairs, {format_bytes(writer.file_bytes)} in {writer.path}"


COMMAND = Command(run=run, settings=RecordSettings, description=DESCRIPTION)
