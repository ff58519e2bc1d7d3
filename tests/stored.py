"""What a store holds, and what it should hold."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

from buffer.store import Store
from buffer.store_reader import StoreReader


def item_of(key: int, size: int = 3000) -> bytes:
    """The bytes that lie under a key, so that a swapped row is found: long enough for overflow pages, some of them empty."""
    return random.Random(key).randbytes(size * (key % 7) // 3)


def connection_of(store: Store) -> sqlite3.Connection:
    """The connection of a store that has begun to write."""
    assert store._file is not None
    return store._file.connection


def restored(store: StoreReader) -> list[tuple[bytes, dict[int, bytes]]]:
    """All that can be restored: note and items of each commit, newest first."""
    return [
        (commit.note, dict(zip(commit.keys.tolist(), store.items(commit.keys), strict=True)))
        for commit in store.commits()
    ]


def expected(*commits: tuple[bytes, list[int]]) -> list[tuple[bytes, dict[int, bytes]]]:
    return [(note, {key: item_of(key) for key in keys}) for note, keys in commits]


def fill(store: Store, keys: range) -> None:
    for key in keys:
        store.put(key, item_of(key))


def newer(path: Path) -> None:
    with Store(path) as store:
        store.rewind(0)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
