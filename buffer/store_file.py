"""Writes the file of a store: a connection for its only writer, and what each change of the store is in SQL."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from buffer.store_reader import APPLICATION, VERSION, commits_of, crc_of

log = logging.getLogger(__name__)

Keys = NDArray[np.int64]

RESTORABLE = 2
"""Number of commits that can be restored: the newest one and, in case something outside the store is damaged, its predecessor."""
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


class Inventory:
    """The checksums of all items by their keys, those that wait to be written included. Thread-safe."""

    def __init__(self, checksums: dict[int, int]) -> None:
        self._checksums = checksums
        self._lock = threading.Lock()

    def largest(self) -> int:
        """Return the largest key; -1: there is none."""
        with self._lock:
            return max(self._checksums, default=-1)

    def all_keys(self) -> list[int]:
        """Return all keys."""
        with self._lock:
            return list(self._checksums)

    def checksums(self, keys: Keys) -> Keys:
        """Return the checksums of the items of these keys, int64 [n]; -1 for one that is not there."""
        with self._lock:
            return np.array([self._checksums.get(key, -1) for key in keys.tolist()], np.int64)

    def add(self, key: int, checksum: int) -> None:
        """Note a new item."""
        with self._lock:
            self._checksums[key] = checksum

    def remove(self, keys: Collection[int]) -> None:
        """Forget these items."""
        with self._lock:
            for key in keys:
                del self._checksums[key]


class StoreFile:
    """Opens the file at `path` to write, and creates it with this identity if it is new. Raises sqlite3.Error.

    Each change is a call of `transact` with one of the methods below it, which return the keys of the items they removed.
    """

    def __init__(self, path: Path, inventory: Inventory, identity: str, *, is_new: bool) -> None:
        self._path = path
        self._inventory = inventory
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            for setting in _SETTINGS:
                self.connection.execute(f"PRAGMA {setting}")
            if is_new:
                self._create(identity)
        except BaseException:
            self.connection.close()
            raise

    def transact(self, work: Callable[[], Collection[int]], *, durable: bool) -> None:
        """Make a change: all or nothing. If it is not durable when it ends, it is with the next durable one."""
        try:
            with self._transaction(durable=durable):
                gone = work()
        except sqlite3.Error:
            if self.connection.in_transaction:  # SQLite rolls most of them back itself
                self.connection.execute("ROLLBACK")
            raise
        self._inventory.remove(gone)

    def empty_log(self) -> None:
        """Move all that is in the log into the file, sync both, and cut the log to nothing."""
        is_busy, _, _ = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            log.warning(
                "%s: its log keeps the newest commit as long as another program reads it: end that one", self._path
            )

    def insert_item(self, key: int, item: bytes, checksum: int) -> Collection[int]:
        """Insert a new item."""
        self.connection.execute("INSERT INTO items VALUES (?, ?, ?)", (key, checksum, item))
        return ()

    def insert_commit(self, keys: Keys, note: bytes) -> Collection[int]:
        """Insert a commit behind the newest one. Items that no commit names any more are removed, up to its largest key."""
        self._append_commit(keys, note)
        return self._forget_unnamed(upto=int(keys[-1]) if keys.size else -1)

    def rewind(self, number: int, adopted: tuple[Keys, bytes] | None) -> Collection[int]:
        """Remove the commits behind this one, let `adopted` follow on it, and remove all items that no commit names."""
        self.connection.execute("DELETE FROM commits WHERE number > ?", (number,))
        if adopted is not None:
            self._append_commit(*adopted)
        return self._forget_unnamed()

    def _append_commit(self, keys: Keys, note: bytes) -> None:
        missing = keys[self._inventory.checksums(keys) < 0].tolist()
        if missing:
            raise sqlite3.DatabaseError(f"{len(missing)} keys of a commit were never put, such as {missing[:8]}")
        (number,) = self.connection.execute("SELECT ifnull(max(number), 0) + 1 FROM commits").fetchone()
        packed = keys.astype("<i8").tobytes()
        row = (number, crc_of(number, packed + note), packed, note)
        self.connection.execute("INSERT INTO commits VALUES (?, ?, ?, ?)", row)
        self.connection.execute("DELETE FROM commits WHERE number <= ?", (number - RESTORABLE,))

    def _forget_unnamed(self, upto: int = (1 << 63) - 1) -> Collection[int]:
        """Delete the items up to this key that no commit names, and return their keys."""
        named = {key for commit in commits_of(self.connection) for key in commit.keys.tolist()}
        gone = [key for key in self._inventory.all_keys() if key <= upto and key not in named]
        self.connection.executemany("DELETE FROM items WHERE key = ?", ((key,) for key in gone))
        return gone

    def _create(self, identity: str) -> None:
        with self._transaction(durable=True):
            for statement in _SCHEMA:
                self.connection.execute(statement)
            self.connection.execute("INSERT INTO identity VALUES (?, ?)", (identity, crc_of(0, identity.encode())))
            self.connection.execute(f"PRAGMA application_id = {APPLICATION}")
            self.connection.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[None]:
        self.connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self.connection.execute("BEGIN IMMEDIATE")
        yield
        self.connection.execute("COMMIT")
