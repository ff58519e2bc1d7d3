"""The store keeps the bytes of items durably in one SQLite file. Items are opaque bytes under rising integer keys.

Items are written as they arrive, long before any commit names them. A commit then makes a set of keys and a note visible in one
transaction. It is synced to the disk and moved from SQLite's log into the file: what damages or removes the log later cannot
take a commit away. The last two commits can be restored, and items that neither of them names are removed.

Opening a store only reads. The first call that writes begins at a commit, or empty: it removes the items that a killed process
put after that commit.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from buffer.patience import Patience, lacks_descriptors
from buffer.store_file import Inventory, StoreFile
from buffer.store_reader import Commit, StoreError, StoreReader, checksums_in, crc_of
from buffer.validation import key_vector, require, rises

MAX_BYTES = 512 << 20
"""Largest size of an item and of a note: a row of SQLite ends at 1 GB."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Work for the writer, in a transaction of its own, which is durable before `done` is set."""

    work: Callable[[StoreFile], Collection[int]]
    waiting_bytes: int = 0
    done: Future[None] | None = None


class Store(StoreReader):
    """Opens the file at `path`; the first write creates it in its existing folder. For one process at a time; context manager.

    name: how the identity of a new file begins, at most 47 of A-Z a-z 0-9 . _ -.
    queue_bytes: bytes of items that may wait to be written; the item that reaches the bound still enters, then `put` blocks.
    patience: decides whether a write to a full disk is tried again; `close` ends it. Raises StoreError if the file cannot be
    opened, or is not a store; then nothing has changed.
    """

    def __init__(
        self, path: Path, *, name: str = "", queue_bytes: int = 64 << 20, patience: Patience | None = None
    ) -> None:
        require(queue_bytes >= 1, "queue_bytes", "at least 1", queue_bytes)
        super().__init__(path)
        self._queue_bytes = queue_bytes
        self._patience = patience or Patience()
        self._queue: deque[_Job] = deque()
        self._waiting_bytes = 0
        self._failure: StoreError | None = None
        self._closing = False
        self._changed = threading.Condition()  # guards the queue with its bytes, _failure, _closing and _largest
        self._file: StoreFile | None = None
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        with self._errors("opened", "restore it from a copy, or choose another place"):
            found = checksums_in(path)
        self._is_new = found is None
        made = f"{name}-{uuid.uuid4().hex[:16]}" if name else uuid.uuid4().hex
        self._identity = made if found is None else super().identity
        self._inventory = Inventory(found or {})
        self._largest = self._inventory.largest()

    @property
    def identity(self) -> str:
        """The name of the file, made when it is created: 32 hex digits, or the given name and 16."""
        return self._identity

    @property
    def is_new(self) -> bool:
        """Whether the file has to be created, by the first write."""
        return self._is_new

    def checksums(self, keys: ArrayLike) -> NDArray[np.int64]:
        """Return the checksums of the items of these keys, int64 [n], also before they are written; -1: never put."""
        return self._inventory.checksums(key_vector(keys))

    def commits(self) -> list[Commit]:
        """Return the commits that can be restored, newest first; a damaged one is left out and logged. Raises StoreError."""
        return [] if self._is_new else super().commits()

    def put(self, key: int, item: bytes, timeout_s: float | None = None) -> bool:
        """Queue an item, and return whether it was queued within `timeout_s`; the call blocks while the queue is full.

        The item is durable with the first commit that names it. key: above every earlier one. Raises ValueError if it is
        not, StoreError once writing has failed.
        """
        require(len(item) <= MAX_BYTES, "an item", f"of at most {MAX_BYTES} bytes", len(item))
        self._begin()
        checksum = crc_of(key, item)
        with self._changed:
            room = self._changed.wait_for(lambda: self._waiting_bytes < self._queue_bytes or self._failure, timeout_s)
            if not room:
                return False
            require(self._largest < key < 1 << 63, "a key", f"above {self._largest} and below 2**63", key)
            self._enqueue(_Job(lambda file: file.insert_item(key, item, checksum), len(item)))
            self._inventory.add(key, checksum)
            self._largest = key
        return True

    def flush(self) -> Future[None]:
        """Make all items put so far durable; a later commit may still remove those that it does not name."""
        self._begin()
        return self._request(lambda file: ())

    def commit(self, keys: ArrayLike, note: bytes) -> Future[None]:
        """Make these keys, int64 [n], rising, and the note the newest commit, after all earlier puts.

        The future is done once the commit is durable, in the file and not only in its log. Items that neither this commit nor
        its predecessor names are removed, except those above the largest key, which may be newer than the committed state.
        The future raises StoreError if writing failed, or a key was never put.
        """
        named = key_vector(keys)
        require(rises(named), "the keys of a commit", "rising", f"{named[:8].tolist()}, ...")
        require(len(note) <= MAX_BYTES, "a note", f"of at most {MAX_BYTES} bytes", len(note))
        self._begin()
        return self._request(lambda file: file.insert_commit(named, note))

    def rewind(self, number: int, adopted: tuple[ArrayLike, bytes] | None = None) -> None:
        """Go back to this commit, 0: to none, and remove all newer ones; allowed only before the first put. Raises StoreError.

        adopted: keys, int64 [n], rising, and note of a commit that the store does not list; it follows on commit `number`.
        """
        if self._file is None:
            self._open()
        following = None if adopted is None else (key_vector(adopted[0]), adopted[1])
        self._request(lambda file: file.rewind(number, following)).result()
        with self._changed:
            self._largest = self._inventory.largest()

    def close(self) -> None:
        """Write the waiting items, and free the file; idempotent. The futures of its commits show whether that failed."""
        self._patience.end()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._file is not None:
            self._thread.join()
            self._file.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _begin(self) -> None:
        """Go on from the newest commit, if this is the first write."""
        if self._file is None:
            self.rewind(max((commit.number for commit in self.commits()), default=0))

    def _open(self) -> None:
        """Open the file to write, and start the writer."""
        require(not self._closing, "a store that is written to", "open", "a closed one")
        with self._errors("written", "make room on its disk, then start again"):
            self._file = StoreFile(self._path, self._inventory, self._identity, is_new=self._is_new)
        self._is_new = False
        self._thread.start()

    def _request(self, work: Callable[[StoreFile], Collection[int]]) -> Future[None]:
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
        assert self._file is not None
        while (job := self._next()) is not None:
            try:
                self._work(self._file, job)
            except Exception as error:
                self._fail(error, job)
                return
            if job.done is not None:
                job.done.set_result(None)
            with self._changed:
                self._waiting_bytes -= job.waiting_bytes
                self._changed.notify_all()

    def _work(self, file: StoreFile, job: _Job) -> None:
        """Do a job; what must be durable goes on from the log into the file itself."""
        is_durable = job.done is not None
        self._patiently(lambda: file.transact(lambda: job.work(file), durable=is_durable))
        if is_durable:
            self._patiently(file.empty_log)

    def _patiently(self, action: Callable[[], None]) -> None:
        """Do something again and again while the disk is full."""
        while True:
            try:
                with self._errors("written", "make room on its disk, then start again"):
                    action()
                return
            except StoreError as error:
                if not _is_full(error) or not self._patience.wait(error):
                    raise

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


def _is_full(error: StoreError) -> bool:
    return getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or lacks_descriptors(error)
