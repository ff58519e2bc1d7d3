"""The files of one segment: pairs of one epoch with consecutive numbers, in SQLite.

While a segment is open or full, SQLite's write-ahead log beside the database holds its pairs: a commit for each pair survives
kill -9, and one fdatasync of the log makes all of them survive a power cut. Sealing turns it into a plain read-only database.
The name of the file gives the range of its pairs, so that the range is known even if the file cannot be read:

    RUN-EPOCH-FIRST.sqlite        open or full, with RUN-EPOCH-FIRST.sqlite-wal
    RUN-EPOCH-FIRST-END.sqlite    sealed: the pairs [FIRST, END)

An unsealed segment has one connection only (locking_mode=EXCLUSIVE). SQLite then keeps the index of the log in memory and not in
a mapped file, where a truncation by another process would kill this one. The threads share the connection under a lock, for one
pair at a time.
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

from device.spool.reply import NotNow
from device.spool.segment import Segment, Size, State
from stream.fsync import sync_path
from stream.image import MAX_EYE_BYTES
from stream.live.backfill_messages import PairParts

PAGE_BYTES = 4096
"""Small pages: they waste 2 % of a pair of 358 kB, and one flipped bit cannot damage much."""
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


class SegmentFile:
    """The files at a path. One thread appends; any thread may read, sync, seal or delete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._deleted = threading.Event()
        self._lock = threading.RLock()  # guards the connection; sealing closes it
        self._writer: sqlite3.Connection | None = None
        self._descriptors: list[int] = []
        self._descriptors_lock = threading.Lock()  # a sync takes long, and only closing may have to wait for it
        self._new = False

    @classmethod
    def create(cls, folder: Path, segment: Segment) -> SegmentFile:
        """Make the files of a new segment. Raises sqlite3.Error or OSError, and then leaves no file."""
        file = cls(folder / f"{segment.run:08}-{segment.epoch}-{segment.first:012}.sqlite")
        try:
            file._begin()
        except BaseException:
            file.delete()
            file.close()
            raise
        return file

    def recover(self, segment: Segment) -> None:
        """Open an unsealed segment of an earlier process, and set its end as far as a damaged file shows it.

        Raises sqlite3.Error or OSError if the file cannot be opened now.
        """
        size = self.size()
        bound = segment.first + size.disk_bytes // _MIN_ROW_BYTES  # a number beyond it comes from a flipped bit
        try:
            if size.log_bytes:  # it may never have been synced
                self._descriptors = [os.open(self.log_path, os.O_RDWR | os.O_CLOEXEC)]
            self._writer = _connect(self.path)
            (last,) = self._writer.execute("SELECT max(seq) FROM pairs").fetchone()
            if last is None or segment.first <= last < bound:
                segment.end = segment.first if last is None else last + 1
                return
        except sqlite3.DatabaseError as error:
            if _is_not_now(error):
                raise
        segment.damaged = True
        if self._writer is not None:
            seqs = (seq for seq in _readable_seqs(self._writer) if segment.first <= seq < bound)
            segment.end = 1 + max(seqs, default=segment.first - 1)

    def append(self, seq: int, row: PairParts) -> None:
        """Commit a pair. If sqlite3.Error or OSError is raised, the pair is not in the file."""
        with self._lock:
            assert self._writer is not None
            self._writer.execute("INSERT INTO pairs VALUES (?, ?, ?, ?)", (seq, *row))

    @contextmanager
    def reading(self) -> Iterator[Callable[[int], PairParts | None]]:
        """Give a function that returns the row with a number; None if it cannot be read. The row is not verified.

        The function raises NotNow if a later attempt may succeed.
        """
        with ExitStack() as stack:
            plain: sqlite3.Connection | None = None

            def row(seq: int) -> PairParts | None:
                nonlocal plain
                try:
                    if plain is None:
                        with self._lock:  # the file may be sealed between two rows
                            if self._writer is not None:
                                return _row(self._writer, seq)
                        plain = stack.enter_context(closing(_connect_plain(self.path)))
                    return _row(plain, seq)
                except sqlite3.Error as error:
                    if self._deleted.is_set() or (_is_not_now(error) and self.path.exists()):
                        raise NotNow from error
                    return None

            yield row

    def sync(self) -> None:
        """Make all pairs that were appended so far survive a power cut; raises OSError."""
        with self._descriptors_lock:
            if self._new:  # an empty database beside a log would make SQLite throw the log away
                for descriptor in self._descriptors:
                    os.fsync(descriptor)
                sync_path(self.path.parent)
                self._new = False
            elif self._descriptors:
                os.fdatasync(self._descriptors[-1])

    def seal(self, end: int) -> None:
        """Turn the files of a full segment into one plain database.

        If sqlite3.Error or OSError is raised, nothing has changed.
        """
        plain = self.path.with_name(f"{self.path.stem}-{end:012}.sqlite")
        with self._lock:
            if self._writer is None or self._deleted.is_set():
                return
            self._writer.execute("PRAGMA synchronous=FULL")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._writer.execute("PRAGMA journal_mode=DELETE").fetchall()
            self.close()
            self.path.chmod(0o444)
            self.path = self.path.rename(plain)
        if self._deleted.is_set():  # another thread has deleted it during the sealing, under the old name
            self.delete()
        sync_path(plain.parent)

    def delete(self) -> None:
        """Delete the files. Their room is free at once, even if a connection is still open."""
        self._deleted.set()
        with suppress(OSError):
            os.truncate(self.log_path, 0)
        for path in (self.log_path, self.path.with_name(f"{self.path.name}-journal"), self.path):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connection and the files; idempotent."""
        with self._lock, self._descriptors_lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            for descriptor in self._descriptors:
                os.close(descriptor)
            self._descriptors = []

    @property
    def log_path(self) -> Path:
        """Path of the write-ahead log, which exists while the segment is not sealed."""
        return self.path.with_name(f"{self.path.name}-wal")

    def size(self) -> Size:
        """Return the bytes that the files take on the disk."""
        log_bytes = _size(self.log_path)
        return Size(_size(self.path) + log_bytes, log_bytes)

    def _begin(self) -> None:
        self._writer = _connect(self.path)
        # Nothing is promised before the first sync, which is ours: SQLite's own syncs would only delay the camera.
        for command in ("synchronous=OFF", f"page_size={PAGE_BYTES}", "journal_mode=WAL", "wal_autocheckpoint=0"):
            self._writer.execute(f"PRAGMA {command}").fetchall()
        self._writer.execute(_SCHEMA)
        self._writer.execute("PRAGMA synchronous=NORMAL")
        # Opened once: closing any descriptor of the database would give up SQLite's locks on it.
        self._descriptors = [os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in (self.path, self.log_path)]
        self._new = True


def segment_of(path: Path) -> Segment | None:
    """Return the segment that the name of a file describes; None if it is another file. An unsealed segment has no end yet."""
    match = _NAME.fullmatch(path.name)
    if match is None or (match["end"] is not None and int(match["end"]) < int(match["first"])):
        return None
    first, sealed = int(match["first"]), match["end"] is not None
    segment = Segment(
        run=int(match["run"]),
        epoch=match["epoch"],
        first=first,
        end=int(match["end"]) if sealed else first,
        state=State.SEALED if sealed else State.FULL,
    )
    with suppress(OSError):
        segment.begun_s = path.stat().st_mtime
    return segment


def row_bytes(row: PairParts) -> int:
    """Return the largest number of bytes that a pair takes in the log."""
    pages = sum(len(part) // (PAGE_BYTES - 4) + 1 for part in row) + 3  # the last bytes of each page name the next one
    return pages * FRAME_BYTES


def is_disk_full(error: Exception) -> bool:
    """Return whether an error says that the disk is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return _code(error) == sqlite3.SQLITE_FULL


def _is_not_now(error: sqlite3.Error) -> bool:
    """Return whether an error tells nothing about the data, so that another attempt may succeed."""
    return _code(error) in _NOT_NOW


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    return _limited(connection, "locking_mode=EXCLUSIVE")


def _connect_plain(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, timeout=BUSY_S)
    # Without it SQLite would refuse a file that was cut off, with all the whole pairs in it.
    return _limited(connection, "writable_schema=ON")


def _limited(connection: sqlite3.Connection, setting: str) -> sqlite3.Connection:
    """Prepare a connection for damaged bytes: it decodes no text, trusts no length above a pair's, and maps no memory.

    If that fails, the connection is closed.
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


def _row(connection: sqlite3.Connection, seq: int) -> PairParts | None:
    query = "SELECT header, left_eye, right_eye FROM pairs WHERE seq = ?"
    row = connection.execute(query, (seq,)).fetchone()
    return row if row is not None and all(isinstance(part, bytes) for part in row) else None


def _readable_seqs(connection: sqlite3.Connection) -> Iterator[int]:
    """Yield the numbers of the pairs in a file, up to the first damage."""
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
