"""One file of the spool: pairs of one epoch with consecutive numbers, in SQLite.

A segment is open, full or sealed. While it is open or full, SQLite's write-ahead log beside it holds its pairs; a commit for
each pair survives kill -9, and one fdatasync of the log makes all of them survive a power cut. Sealing turns it into a plain
read-only database. Its name says what it holds, so that the range of one that cannot be read is still known:

    RUN-EPOCH-FIRST.sqlite        open or full, with RUN-EPOCH-FIRST.sqlite-wal
    RUN-EPOCH-FIRST-END.sqlite    sealed: the pairs [FIRST, END)

The connection of an unsealed one is the only one (locking_mode=EXCLUSIVE): the index of the log then lies in memory, not in a
mapped file, whose truncation by others would kill the process. The callers share it under a lock, a pair at a time.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from stream.fsync import sync_path
from stream.live.backfill_messages import Row
from stream.pair import MAX_EYE_BYTES
from stream.ranges import Ranges

PAGE_BYTES = 4096
"""Small pages: 2 % are wasted on 358 kB, and what one flipped bit can take with it is small."""
FRAME_BYTES = PAGE_BYTES + 24
BUSY_S = 5.0
_CACHE_KIB = 1024
_ROW_BYTES = 2 * MAX_EYE_BYTES + PAGE_BYTES
_MIN_ROW_BYTES = 64
_NOT_NOW = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN})
_NAME = re.compile(
    r"(?P<run>\d{8})-(?P<epoch>[0-9a-f]{32})-(?P<first>\d{12,19})(-(?P<end>\d{12,19}))?\.sqlite", re.ASCII
)
_SCHEMA = "CREATE TABLE pairs (seq INTEGER PRIMARY KEY, header BLOB, left_eye BLOB, right_eye BLOB)"


class Segment:
    """The pairs [first, end) of an epoch. One thread appends; any may read, sync or seal."""

    def __init__(self, path: Path, *, run: int, epoch: str, first: int, end: int | None) -> None:
        self.path, self.run, self.epoch, self.first = path, run, epoch, first
        self.end = first if end is None else end
        self.sealed = end is not None
        self.begun_s = 0.0
        """When it was begun (or last written, where an earlier process did), seconds since 1970."""
        self.disk_bytes = 0
        """What it takes on the disk."""
        self.log_bytes = 0
        """The part of that which sealing will write once more."""
        self.damaged = False
        """It was left by an earlier process, and its end is a guess."""
        self.rotten = Ranges()
        """Its pairs that turned out to be unreadable."""
        self._dropped = threading.Event()
        self._lock = threading.Lock()  # guards the connection
        self._writer: sqlite3.Connection | None = None
        self._files: list[int] = []
        self._files_lock = threading.Lock()  # a sync takes long: nobody but the closing of the files waits for it
        self._new = False

    @classmethod
    def create(cls, folder: Path, *, run: int, epoch: str, first: int, begun_s: float) -> Segment:
        """A new open segment without pairs; raises sqlite3.Error or OSError, and leaves nothing then."""
        segment = cls(folder / f"{run:08}-{epoch}-{first:012}.sqlite", run=run, epoch=epoch, first=first, end=None)
        segment.begun_s = begun_s
        try:
            segment._begin()
        except BaseException:
            segment.drop()
            segment.close()
            raise
        return segment

    @classmethod
    def found(cls, path: Path) -> Segment | None:
        """The segment that a file's name says it is; None where it is no segment."""
        match = _NAME.fullmatch(path.name)
        if match is None or (match["end"] is not None and int(match["end"]) < int(match["first"])):
            return None
        end = None if match["end"] is None else int(match["end"])
        segment = cls(path, run=int(match["run"]), epoch=match["epoch"], first=int(match["first"]), end=end)
        with suppress(OSError):
            segment.begun_s = path.stat().st_mtime
        segment._measure()
        return segment

    @property
    def claimed_bytes(self) -> int:
        """What it takes and will take."""
        return self.disk_bytes + self.log_bytes

    @property
    def dropped(self) -> bool:
        """Whether it is deleted."""
        return self._dropped.is_set()

    @property
    def empty(self) -> bool:
        """Whether no pair was ever in it."""
        return self.end == self.first and not self.sealed and not self.damaged

    def recover(self) -> None:
        """Open an unsealed one that an earlier process left, and find its end: of a damaged one, as far as it can be seen.

        Raises sqlite3.Error or OSError where it cannot be opened now.
        """
        bound = self.first + self.disk_bytes // _MIN_ROW_BYTES  # a number beyond it is a flipped bit
        try:
            if self.log_bytes:  # it may never have been synced
                self._files = [os.open(self.log_path, os.O_RDWR | os.O_CLOEXEC)]
            self._writer = _connect(self.path)
            last = _last(self._writer)
            if last is None or self.first <= last < bound:
                self.end = self.first if last is None else last + 1
                return
        except sqlite3.DatabaseError as error:
            if is_not_now(error):
                raise
        self.damaged = True
        if self._writer is not None:
            self.end = 1 + max(
                (seq for seq in _walk(self._writer) if self.first <= seq < bound), default=self.first - 1
            )

    def append(self, row: Row) -> None:
        """Commit the pair `end`; raises sqlite3.Error or OSError, and it is not in there then."""
        with self._lock:
            assert self._writer is not None
            self._writer.execute("INSERT INTO pairs VALUES (?, ?, ?, ?)", (self.end, *row))
        self.end += 1
        self._measure()

    @contextmanager
    def reading(self) -> Iterator[Callable[[int], Row | None]]:
        """Gives a function from a number to its row: None where there is none; the row is not verified.

        The function raises sqlite3.Error where the row cannot be read.
        """
        with ExitStack() as stack:
            plain: sqlite3.Connection | None = None

            def row(seq: int) -> Row | None:
                nonlocal plain
                if plain is None:
                    with self._lock:  # it may be sealed between two rows
                        if self._writer is not None:
                            return _row(self._writer, seq)
                    plain = stack.enter_context(closing(_connect_plain(self.path)))
                return _row(plain, seq)

            yield row

    def sync(self) -> None:
        """Make everything appended so far survive a power cut; raises OSError."""
        with self._files_lock:
            if self._new:  # an empty database beside a log would make SQLite throw the log away
                for descriptor in self._files:
                    os.fsync(descriptor)
                sync_path(self.path.parent)
                self._new = False
            elif self._files:
                os.fdatasync(self._files[-1])

    def seal(self) -> None:
        """Turn a full one into a plain database; raises sqlite3.Error or OSError, and it stays as it is then."""
        plain = self.path.with_name(f"{self.path.stem}-{self.end:012}.sqlite")
        with self._lock:
            if self._writer is None or self._dropped.is_set():
                return
            self._writer.execute("PRAGMA synchronous=FULL")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._writer.execute("PRAGMA journal_mode=DELETE").fetchall()
            self._close()
            self._measure()
            self.path.chmod(0o444)
            self.path = self.path.rename(plain)
            self.sealed = True
        if self._dropped.is_set():  # meanwhile, by its old name
            self.drop()
        sync_path(plain.parent)

    def drop(self) -> None:
        """Delete it; its room is free at once, though a connection may still be open."""
        self._dropped.set()
        with suppress(OSError):
            os.truncate(self.log_path, 0)
        for path in (self.log_path, self.path.with_name(f"{self.path.name}-journal"), self.path):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Free what it holds in memory; idempotent."""
        with self._lock:
            self._close()

    @property
    def log_path(self) -> Path:
        """Where its log is, or was."""
        return self.path.with_name(f"{self.path.name}-wal")

    def _begin(self) -> None:
        self._writer = _connect(self.path)
        # Nothing is promised before the first sync, which is ours: SQLite's own ones would only stop the camera.
        for command in ("synchronous=OFF", f"page_size={PAGE_BYTES}", "journal_mode=WAL", "wal_autocheckpoint=0"):
            self._writer.execute(f"PRAGMA {command}").fetchall()
        self._writer.execute(_SCHEMA)
        self._writer.execute("PRAGMA synchronous=NORMAL")
        # Opened once: closing any descriptor of the database would give up SQLite's locks on it.
        self._files = [os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in (self.path, self.log_path)]
        self._new = True
        self._measure()

    def _measure(self) -> None:
        self.log_bytes = 0 if self.sealed else _size(self.log_path)
        self.disk_bytes = _size(self.path) + self.log_bytes

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        with self._files_lock:
            for descriptor in self._files:
                os.close(descriptor)
            self._files = []


def row_bytes(row: Row) -> int:
    """What a pair takes in the log, at most."""
    pages = sum(len(part) // (PAGE_BYTES - 4) + 1 for part in row) + 3  # the last bytes of each page name the next one
    return pages * FRAME_BYTES


def is_full(error: Exception) -> bool:
    """Whether an error says that the disk is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return _code(error) == sqlite3.SQLITE_FULL


def is_not_now(error: sqlite3.Error) -> bool:
    """Whether an error says nothing about the data: asked again, the answer may be another."""
    return _code(error) in _NOT_NOW


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    return _bounded(connection, "locking_mode=EXCLUSIVE")


def _connect_plain(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, timeout=BUSY_S)
    # Else SQLite would refuse a file that was cut off, whole pairs included.
    return _bounded(connection, "writable_schema=ON")


def _bounded(connection: sqlite3.Connection, setting: str) -> sqlite3.Connection:
    """Damaged bytes may say anything: no text is decoded, no length beyond a pair's believed, nothing mapped.

    Closed again where the first thing that is asked of it fails.
    """
    connection.text_factory = bytes
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _ROW_BYTES)
    try:
        for pragma in (setting, "mmap_size=0", f"cache_size=-{_CACHE_KIB}"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _row(connection: sqlite3.Connection, seq: int) -> Row | None:
    query = "SELECT header, left_eye, right_eye FROM pairs WHERE seq = ?"
    row = connection.execute(query, (seq,)).fetchone()
    return row if row is not None and all(isinstance(part, bytes) for part in row) else None


def _last(connection: sqlite3.Connection) -> int | None:
    last: int | None = connection.execute("SELECT max(seq) FROM pairs").fetchone()[0]
    return last


def _walk(connection: sqlite3.Connection) -> Iterator[int]:
    """The numbers up to the first damage."""
    with suppress(sqlite3.DatabaseError):
        for (seq,) in connection.execute("SELECT seq FROM pairs ORDER BY seq"):
            yield seq


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte: the kind of error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
