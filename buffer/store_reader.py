"""Reads the file of a store: its format, the commits in it, and its items. Reading changes no byte of file and log."""

from __future__ import annotations

import logging
import re
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from buffer.validation import key_vector

log = logging.getLogger(__name__)

APPLICATION, VERSION = 0x62616279, 1
"""In the header of the file: that it is a store, and the version of its schema."""

IDENTITY = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,46}-)?[0-9a-f]{16,32}")


class StoreError(OSError):
    """The file cannot be read or written: the disk is full, it is damaged, or it is not a store of this version. One line."""


class Commit(NamedTuple):
    """A commit that can be restored. number counts from 1; keys: int64 [n], rising."""

    number: int
    note: bytes
    keys: NDArray[np.int64]


class StoreReader:
    """Reads the store at `path`, also beside the process that writes it. Items that later commits do not name may be gone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: sqlite3.Connection | None = None

    @contextmanager
    def held(self) -> Iterator[StoreReader]:
        """Yield a reader of the store as it is now: what the writer removes meanwhile stays to be read. Raises StoreError."""
        with self._reading() as connection:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM commits").fetchone()  # the transaction begins with its first read
            reader = StoreReader(self._path)
            reader._held = connection
            yield reader

    @property
    def identity(self) -> str:
        """32 hex digits that name the file. Raises StoreError."""
        with self._reading() as connection:
            return identity_of(connection)

    @property
    def is_new(self) -> bool:
        """Whether the file has to be created: never, because this class only reads."""
        return False

    def checksums(self, keys: ArrayLike) -> NDArray[np.int64]:
        """Return the checksums of the items of these keys, int64 [n]; -1 for one that is missing. Raises StoreError."""
        with self._reading() as connection:
            found = dict(connection.execute("SELECT key, crc FROM items"))
        return np.array([found.get(key, -1) for key in key_vector(keys).tolist()], np.int64)

    def commits(self) -> list[Commit]:
        """Return the commits that can be restored, newest first; a damaged one is left out and logged. Raises StoreError."""
        with self._reading() as connection:
            return commits_of(connection)

    def items(self, keys: ArrayLike) -> Iterator[bytes]:
        """Yield the items of these keys, int64 [n], in their order. Raises StoreError at an item that is missing or damaged."""
        with self._reading() as connection:
            for key in key_vector(keys).tolist():
                row = connection.execute("SELECT crc, item FROM items WHERE key = ?", (key,)).fetchone()
                if row is None:
                    raise sqlite3.DatabaseError(f"item {key} is missing")
                if row[0] != crc_of(key, row[1]):
                    raise sqlite3.DatabaseError(f"item {key} is damaged")
                yield row[1]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Open a connection for the caller alone, beside the writer; it creates no file."""
        with self._errors("read", "restore it from a copy, or choose another place"):
            if self._held is not None:
                yield self._held
                return
            with closing(reading_connection(self._path)) as connection:
                yield connection

    @contextmanager
    def _errors(self, done: str, advice: str) -> Iterator[None]:
        """Turn errors of SQLite into one line."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # UnicodeDecodeError: the message quotes damaged bytes
            reason = " ".join(str(error).split())
            raise StoreError(f"{self._path} cannot be {done} ({reason}): {advice}") from error


def checksums_in(path: Path) -> dict[int, int] | None:
    """Return the checksums of the items by their keys, and change nothing; None: there is no store yet.

    Raises sqlite3.Error for what is no store.
    """
    if not path.parent.is_dir():
        raise sqlite3.DatabaseError("its folder is not there")
    size = path.stat().st_size if path.exists() else 0
    if path.is_file() and 0 < size < 512:  # SQLite would take it for an empty one
        raise sqlite3.DatabaseError("file is not a database")
    if not (size or path.is_dir() or has_log(path)):
        return None
    with closing(reading_connection(path)) as connection:
        return dict(connection.execute("SELECT key, crc FROM items")) if is_written(connection) else None


def reading_connection(path: Path) -> sqlite3.Connection:
    """Connect to an existing file without changing it. Raises sqlite3.Error.

    When the last connection to a file is closed, SQLite copies the log into the file and removes the log. Of a damaged log it
    would copy only a part. So a file with a log is opened read-only. SQLite also removes the log of an empty file when it is
    opened.
    """
    if has_log(path) and not (path.exists() and path.stat().st_size):
        raise sqlite3.DatabaseError("it is empty or missing, but its log is not")
    mode = "ro" if _log_of(path).exists() else "rw"  # an empty log stays too
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)


def has_log(path: Path) -> bool:
    """Return whether the file has a log that is not empty."""
    log_file = _log_of(path)
    return log_file.is_file() and log_file.stat().st_size > 0


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def is_written(connection: sqlite3.Connection) -> bool:
    """Return whether the file is an undamaged store; False: it is empty. Raises sqlite3.Error for anything else."""
    (application,), (version,), (tables,) = (
        connection.execute(query).fetchone()
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    if not application and not tables:
        return False
    if application != APPLICATION:
        raise sqlite3.DatabaseError("it is another program's file")
    if version > VERSION:
        raise sqlite3.DatabaseError("a newer version of this program wrote it")
    (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()  # reads the whole file, as restoring does
    if state != "ok":
        raise sqlite3.DatabaseError(f"it is damaged: {state}")
    return True


def identity_of(connection: sqlite3.Connection) -> str:
    """Return the identity of a store. Raises sqlite3.Error."""
    identity, crc = connection.execute("SELECT identity, crc FROM identity").fetchone() or ("", 0)
    if not isinstance(identity, str) or not IDENTITY.fullmatch(identity) or crc_of(0, identity.encode()) != crc:
        raise sqlite3.DatabaseError("its identity is damaged")
    return identity


def commits_of(connection: sqlite3.Connection) -> list[Commit]:
    """Return the undamaged commits, newest first. Raises sqlite3.Error if all are damaged: that is not an empty store."""
    found, damaged = [], []
    for number, crc, packed, note in connection.execute("SELECT * FROM commits ORDER BY number DESC"):
        if isinstance(packed, bytes) and isinstance(note, bytes) and crc_of(number, packed + note) == crc:
            found.append(Commit(number, note, np.frombuffer(packed, "<i8").astype(np.int64)))
        else:
            damaged.append(number)
    if damaged and not found:
        raise sqlite3.DatabaseError(f"commit {damaged[0]} is damaged, and there is no other one")
    for number in damaged:
        log.warning("commit %d of the store is damaged: it cannot be restored", number)
    return found


def crc_of(number: int, data: bytes) -> int:
    """Checksum the data with the number of their row, so that a row in the place of another one is found."""
    return zlib.crc32(data, number & 0xFFFFFFFF) if isinstance(data, bytes) else -1
