"""The store: the items' bytes, durable, in one SQLite file. Items are opaque bytes under rising integer keys.

Items are written as they come, long before anything speaks of them. A commit then makes a set of keys and a note visible in
one transaction that is synced to the disk. The last two commits can be restored, and what neither of them names goes. What
a killed process put after its last commit is removed on opening: a store begins exactly at a commit, or empty.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from buffer.validation import key_vector, require, rises

log = logging.getLogger(__name__)

RESTORABLE = 2
"""Commits that can be restored: the newest, and the one before in case something beside the store is damaged."""
MAX_BYTES = 512 << 20
"""Of an item, and of a note: SQLite's rows end at 1 GB."""
APPLICATION, VERSION = 0x62616279, 1
"""In the file's header: that it is a store, and of which schema."""
WAL_BYTES = 64 << 20
"""Written before SQLite carries it over into the file and syncs: its default, 4 MiB, is a dozen pairs of 720p."""

_SCHEMA = (
    "CREATE TABLE identity (identity TEXT NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE items (key INTEGER PRIMARY KEY, crc INTEGER NOT NULL, item BLOB NOT NULL)",
    "CREATE TABLE commits (number INTEGER PRIMARY KEY, crc INTEGER NOT NULL, keys BLOB NOT NULL, note BLOB NOT NULL)",
)
_SETTINGS = (
    "journal_mode = WAL",
    f"journal_size_limit = {WAL_BYTES}",
    f"wal_autocheckpoint = {WAL_BYTES // 4096}",
    "secure_delete = OFF",  # where it is on, every freed page is read and written with zeros: 17 times as slow
)


class StoreError(OSError):
    """The file cannot be read or written, in one line: full, damaged, or not a store that this version reads."""


class Commit(NamedTuple):
    """Something that can be restored. number counts from 1; keys: int64 [n], rising."""

    number: int
    note: bytes
    keys: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Job:
    """Work for the writer, in a transaction of its own; that one is durable before `done` is."""

    work: Callable[[], None]
    waiting_bytes: int = 0
    done: Future[None] | None = None


class StoreReader:
    """Reads the store at `path`, also beside the process that writes it; what two later commits name no more is gone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def commits(self) -> list[Commit]:
        """What can be restored, newest first; a damaged one is left out, and said. Raises StoreError."""
        with self._reading() as connection:
            return _commits(connection)

    def items(self, keys: ArrayLike) -> Iterator[bytes]:
        """The items of these keys, int64 [n], in their order. Raises StoreError at one that is missing or damaged."""
        with self._reading() as connection:
            for key in key_vector(keys).tolist():
                row = connection.execute("SELECT crc, item FROM items WHERE key = ?", (key,)).fetchone()
                if row is None:
                    raise sqlite3.DatabaseError(f"item {key} is missing")
                if row[0] != _crc(key, row[1]):
                    raise sqlite3.DatabaseError(f"item {key} is damaged")
                yield row[1]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection of the caller's own: the writer goes on meanwhile. It makes no file."""
        with (
            self._errors("read", "restore it from a copy, or choose another place"),
            closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=rw", uri=True)) as connection,
        ):
            yield connection

    @contextmanager
    def _errors(self, done: str, advice: str) -> Iterator[None]:
        """SQLite's errors as one line."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the second: what is damaged is quoted in the message
            said = " ".join(str(error).split())
            raise StoreError(f"{self._path} cannot be {done} ({said}): {advice}") from error


class Store(StoreReader):
    """Opens the file at `path`, or makes it in a folder that is there; for one process at a time. Context manager.

    queue_bytes: items that may wait to be written; the one that reaches the bound still enters, then `put` blocks.
    patience_s: where the disk is full, what is written is tried again so often, until there is room; None fails at once.
    identity: 32 hex digits made with the file, its name for others.
    Raises StoreError where the file cannot be opened, or is not a store.
    """

    def __init__(self, path: Path, *, queue_bytes: int = 64 << 20, patience_s: float | None = None) -> None:
        require(queue_bytes >= 1, "queue_bytes", "at least 1", queue_bytes)
        super().__init__(path)
        self._queue_bytes = queue_bytes
        self._patience_s = patience_s
        self._queue: deque[_Job] = deque()
        self._waiting_bytes = 0
        self._failure: StoreError | None = None
        self._closing = False
        self._changed = threading.Condition()  # guards the five above, and the largest key
        with self._errors("opened", "restore it from a copy, or choose another place"):
            if path.is_file() and 0 < path.stat().st_size < 512:  # SQLite would take it for an empty one
                raise sqlite3.DatabaseError("file is not a database")
            self._connection = self._connect()
            try:
                self.identity = _open(self._connection)
                self._present = self._stored()
                with _transaction(self._connection, durable=True):
                    self._forget_unnamed()
            except BaseException:
                self._connection.close()
                raise
        self._largest = max(self._present, default=-1)
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def put(self, key: int, item: bytes, timeout_s: float | None = None) -> bool:
        """Queue an item; blocks while the queue is full, at most so long. It is durable with the first commit that names it.

        key: above every key that was put before. Returns whether it was queued. Raises ValueError where the key is not above,
        StoreError once writing has failed.
        """
        require(len(item) <= MAX_BYTES, "an item", f"of at most {MAX_BYTES} bytes", len(item))
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._waiting_bytes < self._queue_bytes or self._failure is not None, timeout_s
            ):
                return False
            require(self._largest < key < 1 << 63, "a key", f"above {self._largest} and below 2**63", key)
            self._enqueue(_Job(partial(self._write_item, key, item), len(item)))
            self._largest = key
        return True

    def lose_patience(self) -> None:
        """From now on a full disk ends writing, as every other error does: nobody waits for room any more."""
        with self._changed:
            self._patience_s = None
            self._changed.notify_all()

    def room_awaited(self, problem: OSError) -> bool:
        """Wait for a full disk to be tried again, where there is patience; False: there is none, the problem stands."""
        with self._changed:
            patience_s = self._patience_s
            if patience_s is None or self._closing:
                return False
            log.warning("%s; it is tried again every %g s, and nothing is committed before", problem, patience_s)
            self._changed.wait_for(lambda: self._patience_s is None or self._closing, patience_s)
        return True

    def commit(self, keys: ArrayLike, note: bytes) -> Future[None]:
        """Make these keys, int64 [n], rising, and the note the newest commit, after all earlier puts; done: it is durable.

        What is named neither here nor in the commit before goes, but for items above the largest key: they may be newer
        than the state that is committed. The future raises StoreError where writing failed, or a key was never put.
        """
        named = key_vector(keys)
        require(rises(named), "the keys of a commit", "rising", f"{named[:8].tolist()}, ...")
        require(len(note) <= MAX_BYTES, "a note", f"of at most {MAX_BYTES} bytes", len(note))
        return self._request(partial(self._write_commit, named, note))

    def rewind(self, number: int) -> None:
        """Go back to this commit: what is newer goes. Only before the first put. Raises StoreError."""
        self._request(partial(self._write_rewind, number)).result()
        with self._changed:
            self._largest = max(self._present, default=-1)

    def close(self) -> None:
        """Write what waits, and free the file; idempotent. The futures of its commits tell whether that failed."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, work: Callable[[], None]) -> Future[None]:
        done: Future[None] = Future()
        with self._changed:
            self._enqueue(_Job(work, done=done))
        return done

    def _enqueue(self, job: _Job) -> None:
        """Under the lock."""
        if self._failure is not None:
            raise StoreError(str(self._failure)) from self._failure
        require(not self._closing, "a store that is written to", "open", "a closed one")
        self._queue.append(job)
        self._waiting_bytes += job.waiting_bytes
        self._changed.notify_all()

    def _run(self) -> None:
        """The writer's thread, until the store is closed or cannot be written."""
        while (job := self._next()) is not None:
            try:
                self._work(job)
            except Exception as error:
                self._fail(error, job)
                return
            if job.done is not None:
                job.done.set_result(None)
            with self._changed:
                self._waiting_bytes -= job.waiting_bytes
                self._changed.notify_all()

    def _work(self, job: _Job) -> None:
        """In a transaction of its own, again and again while the disk is full."""
        while True:
            try:
                with (
                    self._errors("written", "make room on its disk, then start again"),
                    _transaction(self._connection, durable=job.done is not None),
                ):
                    job.work()
                return
            except StoreError as error:
                if not _is_full(error) or not self.room_awaited(error):
                    raise
            if self._connection.in_transaction:  # SQLite takes most of them back itself
                self._connection.execute("ROLLBACK")
            self._present = self._stored()

    def _stored(self) -> set[int]:
        return {key for (key,) in self._connection.execute("SELECT key FROM items")}

    def _next(self) -> _Job | None:
        """The next job, waited for; None once the store is closed and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return self._queue.popleft() if self._queue else None

    def _fail(self, error: Exception, job: _Job) -> None:
        """Nothing is written any more: tell everybody who waits, and everybody who comes."""
        failure = (
            error if isinstance(error, StoreError) else StoreError(f"{self._path}: writing has stopped ({error!r})")
        )
        with self._changed:
            self._failure = failure
            jobs = [job, *self._queue]
            self._queue.clear()
            self._changed.notify_all()
        for waiting in jobs:
            if waiting.done is not None:
                waiting.done.set_exception(failure)

    def _write_item(self, key: int, item: bytes) -> None:
        self._connection.execute("INSERT INTO items VALUES (?, ?, ?)", (key, _crc(key, item), item))
        self._present.add(key)

    def _write_commit(self, keys: NDArray[np.int64], note: bytes) -> None:
        missing = [key for key in keys.tolist() if key not in self._present]
        if missing:
            raise StoreError(f"{self._path}: {len(missing)} keys of a commit were never put, such as {missing[:8]}")
        (number,) = self._connection.execute("SELECT ifnull(max(number), 0) + 1 FROM commits").fetchone()
        packed = keys.astype("<i8").tobytes()
        row = (number, _crc(number, packed + note), packed, note)
        self._connection.execute("INSERT INTO commits VALUES (?, ?, ?, ?)", row)
        self._connection.execute("DELETE FROM commits WHERE number <= ?", (number - RESTORABLE,))
        self._forget_unnamed(upto=int(keys[-1]) if keys.size else -1)

    def _write_rewind(self, number: int) -> None:
        self._connection.execute("DELETE FROM commits WHERE number > ?", (number,))
        self._forget_unnamed()

    def _forget_unnamed(self, upto: int = (1 << 63) - 1) -> None:
        """Delete the items up to this key that no commit names."""
        named = {key for commit in _commits(self._connection) for key in commit.keys.tolist()}
        gone = [key for key in self._present if key <= upto and key not in named]
        self._connection.executemany("DELETE FROM items WHERE key = ?", ((key,) for key in gone))
        self._present.difference_update(gone)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)


def _is_full(error: StoreError) -> bool:
    return getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _open(connection: sqlite3.Connection) -> str:
    """Settings and tables, which are made where there is nothing yet; returns the identity. Raises sqlite3.Error."""
    (application,), (version,), (tables,) = (
        connection.execute(query).fetchone()
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    is_new = not application and not tables
    if not is_new and application != APPLICATION:
        raise sqlite3.DatabaseError("it is another program's file")
    if version > VERSION:
        raise sqlite3.DatabaseError("a newer version of this program wrote it")
    (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()  # reads all of it, as restoring will
    if state != "ok":
        raise sqlite3.DatabaseError(f"it is damaged: {state}")
    for setting in _SETTINGS:
        connection.execute(f"PRAGMA {setting}")
    if is_new:
        _create(connection)
    identity, crc = connection.execute("SELECT identity, crc FROM identity").fetchone() or ("", 0)
    if not isinstance(identity, str) or not re.fullmatch("[0-9a-f]{32}", identity) or _crc(0, identity.encode()) != crc:
        raise sqlite3.DatabaseError("its identity is damaged")
    return identity


def _create(connection: sqlite3.Connection) -> None:
    identity = uuid.uuid4().hex
    with _transaction(connection, durable=True):
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO identity VALUES (?, ?)", (identity, _crc(0, identity.encode())))
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")


@contextmanager
def _transaction(connection: sqlite3.Connection, *, durable: bool) -> Iterator[None]:
    """All or nothing; on the disk when it ends, or else with the next durable one. An error is left to whoever began it."""
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def _commits(connection: sqlite3.Connection) -> list[Commit]:
    """The whole ones, newest first. Raises sqlite3.Error where there are only damaged ones: that is no empty store."""
    found, damaged = [], []
    for number, crc, packed, note in connection.execute("SELECT * FROM commits ORDER BY number DESC"):
        if isinstance(packed, bytes) and isinstance(note, bytes) and _crc(number, packed + note) == crc:
            found.append(Commit(number, note, np.frombuffer(packed, "<i8").astype(np.int64)))
        else:
            damaged.append(number)
    if damaged and not found:
        raise sqlite3.DatabaseError(f"commit {damaged[0]} is damaged, and there is no other one")
    for number in damaged:
        log.warning("commit %d of the store is damaged: it cannot be restored", number)
    return found


def _crc(number: int, data: bytes) -> int:
    """Of the data, and of the number they lie under: a row that a damaged page put elsewhere is found."""
    return zlib.crc32(data, number & 0xFFFFFFFF) if isinstance(data, bytes) else -1
