"""Reads the file of a store: its format, the commits in it, and its items."""

from __future__ import annotations

import logging
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
        with (
            self._errors("read", "restore it from a copy, or choose another place"),
            closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=rw", uri=True)) as connection,
        ):
            yield connection

    @contextmanager
    def _errors(self, done: str, advice: str) -> Iterator[None]:
        """Turn errors of SQLite into one line."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # UnicodeDecodeError: the message quotes damaged bytes
            reason = " ".join(str(error).split())
            raise StoreError(f"{self._path} cannot be {done} ({reason}): {advice}") from error


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
