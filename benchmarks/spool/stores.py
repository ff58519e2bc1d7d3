"""The embedded stores that are compared, each as a spool of pairs, and the spool of `device` among them."""

from __future__ import annotations

import importlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from benchmarks.shared.pairs import DEVICE, EPOCH
from device.spool.rules import SpoolLimits
from device.spool.spool import Spool
from stream.codec import to_parts
from stream.fsync import sync_path
from stream.live.backfill_messages import PairParts
from stream.pair import EncodedPair
from stream.ranges import Ranges

SEGMENT_PAIRS = 184
"""Number of pairs in 64 MiB."""
SCHEMA = "CREATE TABLE IF NOT EXISTS pairs (seq INTEGER PRIMARY KEY, header BLOB, left BLOB, right BLOB)"
INSERT = "INSERT INTO pairs VALUES (?, ?, ?, ?)"


class PairStore(Protocol):
    """A store that is compared. Its constructor takes a folder, which may hold the files of an earlier store of the same kind."""

    def append(self, pair: EncodedPair) -> None:
        """Append a pair. Each store decides whether the pair now survives the death of the process, or a power cut."""

    def sync(self) -> None:
        """Make all appended pairs survive a power cut."""

    def read(self, first: int) -> Iterator[tuple[int, PairParts]]:
        """Yield the pairs from number `first` on, in order, with their numbers."""

    def free(self, below: int) -> None:
        """Delete the pairs below this number, and give their room to the disk or to later pairs."""

    def close(self) -> None:
        """Sync and close."""


def to_stored(pair: EncodedPair) -> PairParts:
    """Return the parts of a pair that a spool stores: header, left and right image."""
    _, header, left, right = to_parts(pair)
    return header, left, right


class RollbackStore:
    """One SQLite file with a rollback journal, synchronous=FULL; a transaction holds `group` pairs."""

    def __init__(self, folder: Path, group: int) -> None:
        self._connection = sqlite3.connect(folder / "pairs.sqlite", isolation_level=None)
        self._connection.executescript("PRAGMA synchronous=FULL;" + SCHEMA)
        self._group = group

    def append(self, pair: EncodedPair) -> None:
        """Append a pair. A power cut loses no committed pair; kill -9 loses the group that is not committed yet."""
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")
        self._connection.execute(INSERT, (pair.header.seq, *to_stored(pair)))
        if (pair.header.seq + 1) % self._group == 0:
            self._connection.execute("COMMIT")

    def sync(self) -> None:
        """Do nothing: every commit syncs."""

    def read(self, first: int) -> Iterator[tuple[int, PairParts]]:
        """Read all pairs with one statement."""
        return _rows(self._connection, first)

    def free(self, below: int) -> None:
        """Delete the pairs; later pairs use the pages again."""
        self._connection.execute("DELETE FROM pairs WHERE seq < ?", (below,))

    def close(self) -> None:
        """Commit the group, and close the file."""
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
        self._connection.close()


class WalSegmentsStore:
    """SQLite files of 64 MiB. The last one is in WAL mode, and its log is synced by us; the others are plain.

    Each pair has a commit of its own.
    """

    def __init__(self, folder: Path, page_bytes: int) -> None:
        self._folder, self._page_bytes = folder, page_bytes
        self._open: sqlite3.Connection | None = None
        self._log = -1

    def append(self, pair: EncodedPair) -> None:
        """Append a pair. Kill -9 loses no pair; a power cut loses the pairs that were not synced."""
        seq = pair.header.seq
        if self._open is None or seq % SEGMENT_PAIRS == 0:
            self._seal()
            self._open = self._begin(self._folder / f"{seq:012}.sqlite")
        self._open.execute(INSERT, (seq, *to_stored(pair)))

    def sync(self) -> None:
        """Sync the log with one fdatasync."""
        os.fdatasync(self._log)

    def read(self, first: int) -> Iterator[tuple[int, PairParts]]:
        """Read one segment after the other; the open one is read through its own connection."""
        paths = sorted(self._folder.glob("*.sqlite"))
        for path in paths[:-1] if self._open else paths:
            if int(path.stem) + SEGMENT_PAIRS > first:
                with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
                    yield from _rows(connection, first)
        if self._open:
            yield from _rows(self._open, first)

    def free(self, below: int) -> None:
        """Delete whole segments."""
        paths = sorted(self._folder.glob("*.sqlite"))
        for path, following in pairwise(paths):
            if int(following.stem) <= below:
                path.unlink()

    def close(self) -> None:
        """Make the last file plain too, and close it."""
        self._seal()

    def _begin(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.executescript(
            f"PRAGMA page_size={self._page_bytes}; PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL;"
            f"PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-512; {SCHEMA}"
        )
        self._log = os.open(f"{path}-wal", os.O_RDWR)
        sync_path(self._folder)
        return connection

    def _seal(self) -> None:
        if self._open is not None:
            self._open.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._open.execute("PRAGMA journal_mode=DELETE").fetchall()
            self._open.close()
            os.close(self._log)
            self._open = None


class LmdbStore:
    """One LMDB file with a commit for each pair; it is synced with each commit or every 0.5 s.

    Without a sync for each commit a power cut may break the whole file, unless the file system keeps the order of writes.
    """

    def __init__(self, folder: Path, sync: bool) -> None:
        # Loaded by name: it is no dependency of ours, and mypy has to pass without it.
        lmdb = importlib.import_module("lmdb")
        self._environment: Any = lmdb.open(str(folder), map_size=16 << 30, sync=sync)

    def append(self, pair: EncodedPair) -> None:
        """Append a pair. Kill -9 loses no pair."""
        with self._environment.begin(write=True) as transaction:
            for number, part in enumerate(to_stored(pair)):
                transaction.put(_key(pair.header.seq, number), part, append=True)

    def sync(self) -> None:
        """Sync the commits that were not synced."""
        self._environment.sync(True)

    def read(self, first: int) -> Iterator[tuple[int, PairParts]]:
        """Read all pairs with one cursor."""
        with self._environment.begin() as transaction:
            cursor = transaction.cursor()
            cursor.set_range(_key(first, 0))
            values = iter(cursor)
            for (key, header), (_, left), (_, right) in zip(values, values, values, strict=True):
                yield int.from_bytes(key[:8]), (header, left, right)

    def free(self, below: int) -> None:
        """Delete the pairs; later pairs use the pages again."""
        with self._environment.begin(write=True) as transaction:
            cursor = transaction.cursor()
            cursor.first()
            while int.from_bytes(cursor.key()[:8]) < below and cursor.delete():
                pass

    def close(self) -> None:
        """Sync and unmap."""
        self._environment.sync(True)
        self._environment.close()


class DeviceSpoolStore:
    """The spool of the package `device`: segments as above, synced by one thread and sealed by another.

    It verifies every pair that it reads.
    """

    def __init__(self, folder: Path) -> None:
        # An epoch can be written only once: a store that is opened again only reads and frees it.
        again = any(folder.iterdir())
        epoch = None if again else EPOCH
        self._spool = Spool(folder, SpoolLimits(8 << 30, free_floor_bytes=0), device=DEVICE, epoch=epoch)

    def append(self, pair: EncodedPair) -> None:
        """Append a pair. Kill -9 loses no pair; a power cut loses the pairs that were not synced."""
        if not self._spool.append(pair):
            raise OSError("the disk refuses pairs")

    def sync(self) -> None:
        """Do nothing: a thread of the spool syncs."""

    def read(self, first: int) -> Iterator[tuple[int, PairParts]]:
        """Read as for a learner, in replies of at most 1 MiB."""
        lost: list[tuple[int, int]] = []
        head = max(span.head for span in self._spool.spans() if span.epoch == EPOCH)
        while first < head:
            reading = self._spool.read(EPOCH, first, head, 1 << 20)
            missing = Ranges(reading.lost)
            yield from zip((seq for seq in range(first, reading.next) if seq not in missing), reading.rows, strict=True)
            lost += reading.lost
            first = reading.next
        if lost:
            raise LookupError(f"lost: {lost}")

    def free(self, below: int) -> None:
        """Acknowledge the pairs, so that the spool deletes them."""
        self._spool.acknowledge("bench", {EPOCH: below})

    def close(self) -> None:
        """Sync and seal."""
        self._spool.close()


STORES: Mapping[str, Callable[[Path], PairStore]] = {
    "sqlite rollback, 1 pair a commit": lambda folder: RollbackStore(folder, 1),
    "sqlite rollback, 16 pairs a commit": lambda folder: RollbackStore(folder, 16),
    "sqlite wal segments, 4 KiB pages": lambda folder: WalSegmentsStore(folder, 4096),
    "sqlite wal segments, 16 KiB pages": lambda folder: WalSegmentsStore(folder, 16384),
    "lmdb, synced each": lambda folder: LmdbStore(folder, True),
    "lmdb, synced at 0.5 s": lambda folder: LmdbStore(folder, False),
    "device.spool": DeviceSpoolStore,
}


def _rows(connection: sqlite3.Connection, first: int) -> Iterator[tuple[int, PairParts]]:
    for seq, header, left, right in connection.execute("SELECT * FROM pairs WHERE seq >= ? ORDER BY seq", (first,)):
        yield seq, (header, left, right)


def _key(seq: int, part: int) -> bytes:
    return seq.to_bytes(8) + bytes([part])
