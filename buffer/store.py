"""The store keeps the bytes of items durably in one SQLite file. Items are opaque bytes under rising integer keys.

Items are written as they arrive, long before any commit names them. A commit then makes a set of keys and a note visible in one
transaction, which is synced to the disk. The last two commits can be restored, and items that neither of them names are
removed. Items that a killed process put after its last commit are removed on opening: a store begins exactly at a commit, or
empty.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from buffer.patience import Patience
from buffer.store_reader import APPLICATION, VERSION, StoreError, StoreReader, commits_of, crc_of
from buffer.validation import key_vector, require, rises

RESTORABLE = 2
"""Number of commits that can be restored: the newest one and, in case something outside the store is damaged, its predecessor."""
MAX_BYTES = 512 << 20
"""Largest size of an item and of a note: a row of SQLite ends at 1 GB."""
WAL_BYTES = 64 << 20
"""Bytes written before SQLite copies them into the file and syncs: its default, 4 MiB, is a dozen pairs of 720p."""

_SCHEMA = (
    "CREATE TABLE identity (identity TEXT NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE items (key INTEGER PRIMARY KEY, crc INTEGER NOT NULL, item BLOB NOT NULL)",
    "CREATE TABLE commits (number INTEGER PRIMARY KEY, crc INTEGER NOT NULL, keys BLOB NOT NULL, note BLOB NOT NULL)",
)
_SETTINGS = (
    "journal_mode = WAL",
    f"journal_size_limit = {WAL_BYTES}",
    f"wal_autocheckpoint = {WAL_BYTES // 4096}",
    "secure_delete = OFF",  # if it is on, every freed page is read and overwritten with zeros: 17 times slower
)


@dataclass(frozen=True, slots=True)
class _Job:
    """Work for the writer, in a transaction of its own, which is durable before `done` is set."""

    work: Callable[[], None]
    waiting_bytes: int = 0
    done: Future[None] | None = None


class Store(StoreReader):
    """Opens the file at `path`, or creates it in an existing folder; for one process at a time. Context manager.

    queue_bytes: bytes of items that may wait to be written; the item that reaches the bound still enters, then `put` blocks.
    patience: decides whether a write to a full disk is tried again; `close` ends it. identity: 32 hex digits that
    name the file, made when it is created. Raises StoreError if the file cannot be opened, or is not a store.
    """

    def __init__(self, path: Path, *, queue_bytes: int = 64 << 20, patience: Patience | None = None) -> None:
        require(queue_bytes >= 1, "queue_bytes", "at least 1", queue_bytes)
        super().__init__(path)
        self._queue_bytes = queue_bytes
        self._patience = patience or Patience()
        self._queue: deque[_Job] = deque()
        self._waiting_bytes = 0
        self._failure: StoreError | None = None
        self._closing = False
        self._changed = threading.Condition()  # guards the queue with its bytes, _failure, _closing and _largest
        with self._errors("opened", "restore it from a copy, or choose another place"):
            if path.is_file() and 0 < path.stat().st_size < 512:  # SQLite would take it for an empty one
                raise sqlite3.DatabaseError("file is not a database")
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
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
        """Queue an item, and return whether it was queued within `timeout_s`; the call blocks while the queue is full.

        The item is durable with the first commit that names it. key: above every earlier one. Raises ValueError if it is
        not, StoreError once writing has failed.
        """
        require(len(item) <= MAX_BYTES, "an item", f"of at most {MAX_BYTES} bytes", len(item))
        with self._changed:
            room = self._changed.wait_for(lambda: self._waiting_bytes < self._queue_bytes or self._failure, timeout_s)
            if not room:
                return False
            require(self._largest < key < 1 << 63, "a key", f"above {self._largest} and below 2**63", key)
            self._enqueue(_Job(partial(self._write_item, key, item), len(item)))
            self._largest = key
        return True

    def commit(self, keys: ArrayLike, note: bytes) -> Future[None]:
        """Make these keys, int64 [n], rising, and the note the newest commit, after all earlier puts.

        The future is done once the commit is durable. Items that neither this commit nor its predecessor names are removed,
        except those above the largest key, which may be newer than the committed state. The future raises StoreError if writing
        failed, or a key was never put.
        """
        named = key_vector(keys)
        require(rises(named), "the keys of a commit", "rising", f"{named[:8].tolist()}, ...")
        require(len(note) <= MAX_BYTES, "a note", f"of at most {MAX_BYTES} bytes", len(note))
        return self._request(partial(self._write_commit, named, note))

    def rewind(self, number: int) -> None:
        """Go back to this commit and remove all newer ones; allowed only before the first put. Raises StoreError."""
        self._request(partial(self._write_rewind, number)).result()
        with self._changed:
            self._largest = max(self._present, default=-1)

    def close(self) -> None:
        """Write the waiting items, and free the file; idempotent. The futures of its commits show whether that failed."""
        self._patience.end()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _request(self, work: Callable[[], None]) -> Future[None]:
        done: Future[None] = Future()
        with self._changed:
            self._enqueue(_Job(work, done=done))
        return done

    def _enqueue(self, job: _Job) -> None:
        """Add a job to the queue; the caller holds the lock."""
        if self._failure is not None:
            raise StoreError(str(self._failure)) from self._failure
        require(not self._closing, "a store that is written to", "open", "a closed one")
        self._queue.append(job)
        self._waiting_bytes += job.waiting_bytes
        self._changed.notify_all()

    def _run(self) -> None:
        """Work in the writer's thread until the store is closed or cannot be written."""
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
        """Do a job in a transaction of its own, again and again while the disk is full."""
        while True:
            try:
                with (
                    self._errors("written", "make room on its disk, then start again"),
                    _transaction(self._connection, durable=job.done is not None),
                ):
                    job.work()
                return
            except StoreError as error:
                if not _is_full(error) or not self._patience.wait(error):
                    raise
            if self._connection.in_transaction:  # SQLite rolls most of them back itself
                self._connection.execute("ROLLBACK")
            self._present = self._stored()

    def _stored(self) -> set[int]:
        return {key for (key,) in self._connection.execute("SELECT key FROM items")}

    def _next(self) -> _Job | None:
        """Wait for the next job; None once the store is closed and no job waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return self._queue.popleft() if self._queue else None

    def _fail(self, error: Exception, job: _Job) -> None:
        """Stop writing: all jobs that wait fail, and all later calls do."""
        if not isinstance(error, StoreError):
            error = StoreError(f"{self._path}: writing has stopped ({error!r})")
        with self._changed:
            self._failure = error
            jobs = [job, *self._queue]
            self._queue.clear()
            self._changed.notify_all()
        for waiting in jobs:
            if waiting.done is not None:
                waiting.done.set_exception(error)

    def _write_item(self, key: int, item: bytes) -> None:
        self._connection.execute("INSERT INTO items VALUES (?, ?, ?)", (key, crc_of(key, item), item))
        self._present.add(key)

    def _write_commit(self, keys: NDArray[np.int64], note: bytes) -> None:
        missing = [key for key in keys.tolist() if key not in self._present]
        if missing:
            raise StoreError(f"{self._path}: {len(missing)} keys of a commit were never put, such as {missing[:8]}")
        (number,) = self._connection.execute("SELECT ifnull(max(number), 0) + 1 FROM commits").fetchone()
        packed = keys.astype("<i8").tobytes()
        row = (number, crc_of(number, packed + note), packed, note)
        self._connection.execute("INSERT INTO commits VALUES (?, ?, ?, ?)", row)
        self._connection.execute("DELETE FROM commits WHERE number <= ?", (number - RESTORABLE,))
        self._forget_unnamed(upto=int(keys[-1]) if keys.size else -1)

    def _write_rewind(self, number: int) -> None:
        self._connection.execute("DELETE FROM commits WHERE number > ?", (number,))
        self._forget_unnamed()

    def _forget_unnamed(self, upto: int = (1 << 63) - 1) -> None:
        """Delete the items up to this key that no commit names."""
        named = {key for commit in commits_of(self._connection) for key in commit.keys.tolist()}
        gone = [key for key in self._present if key <= upto and key not in named]
        self._connection.executemany("DELETE FROM items WHERE key = ?", ((key,) for key in gone))
        self._present.difference_update(gone)


def _is_full(error: StoreError) -> bool:
    return getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _open(connection: sqlite3.Connection) -> str:
    """Apply the settings, create the tables of a new file, and return the identity. Raises sqlite3.Error."""
    (application,), (version,), (tables,) = (
        connection.execute(query).fetchone()
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    is_new = not application and not tables
    if not is_new and application != APPLICATION:
        raise sqlite3.DatabaseError("it is another program's file")
    if version > VERSION:
        raise sqlite3.DatabaseError("a newer version of this program wrote it")
    (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()  # reads the whole file, as restoring does
    if state != "ok":
        raise sqlite3.DatabaseError(f"it is damaged: {state}")
    for setting in _SETTINGS:
        connection.execute(f"PRAGMA {setting}")
    if is_new:
        _create(connection)
    identity, crc = connection.execute("SELECT identity, crc FROM identity").fetchone() or ("", 0)
    if (
        not isinstance(identity, str)
        or not re.fullmatch("[0-9a-f]{32}", identity)
        or crc_of(0, identity.encode()) != crc
    ):
        raise sqlite3.DatabaseError("its identity is damaged")
    return identity


def _create(connection: sqlite3.Connection) -> None:
    identity = uuid.uuid4().hex
    with _transaction(connection, durable=True):
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO identity VALUES (?, ?)", (identity, crc_of(0, identity.encode())))
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")


@contextmanager
def _transaction(connection: sqlite3.Connection, *, durable: bool) -> Iterator[None]:
    """Commit all or nothing: durable when it ends, or with the next durable one. After an error the caller rolls back."""
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")
