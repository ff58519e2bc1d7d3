"""Reads the messages of ROS 2 bags in SQLite (`.db3`), of ROS 1 bags (`.bag`), and of recordings that are several files.

What a file declares is bounded before it is used: SQLite may hold views that never end, and a ROS 1 bag chunks that expand
without end.
"""

from __future__ import annotations

import bz2
import re
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol

import lz4.frame

from stream.errors import StreamError
from stream.recording.mcap_reader import FREE_BYTES, MAX_RATIO, McapReader, Message, Topic
from stream.recording.mcap_writer import MAX_CHUNK_BYTES
from stream.recording.messages import needs_rosbags

MAX_TOPICS = 1 << 16
_SQLITE, _ROS1, _ZSTD = b"SQLite format 3\0", b"#ROSBAG", b"\x28\xb5\x2f\xfd"


class Messages(Protocol):
    """The messages of a file, and what was wrong with it. It is iterated once."""

    size: int
    """Bytes of the file."""
    cut: bool
    skipped: int
    skipped_bytes: int
    topics: dict[int, Topic]

    def __iter__(self) -> Iterator[Message]:
        """Yield the messages."""


def open_messages(path: Path, stack: ExitStack) -> Messages:
    """Open a recording of any kind; a folder is a ROS 2 bag. stack: closes it. Raises StreamError, or OSError."""
    if path.is_dir():
        return _Files(bag_files(path))
    if path.exists() and not path.is_file():  # reading a pipe would wait
        raise StreamError("it is no regular file: copy what it gives into one first")
    file = stack.enter_context(path.open("rb", buffering=0))
    magic = file.read(16)
    if magic.startswith(_SQLITE):
        return Db3Reader(path, stack)
    if magic.startswith(_ROS1):
        return Ros1Reader(path, stack)
    if magic.startswith(_ZSTD):
        raise StreamError(f"it is compressed as a whole: `zstd -d {path.name}` unpacks it")
    return McapReader(file)


def bag_files(folder: Path) -> list[Path]:
    """Return the files of a ROS 2 bag, in their order. Raises StreamError for any other folder."""
    files = [path for path in folder.iterdir() if path.suffix in (".mcap", ".db3")]
    if not files or not (folder / "metadata.yaml").is_file():
        raise StreamError("it is a folder, and no ROS 2 bag (metadata.yaml beside .mcap or .db3): name a file of it")
    return sorted(
        files, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
    )


class _Files:
    """The messages of several files, as if they were one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.size = sum(path.stat().st_size for path in paths)
        self.cut = False
        self.skipped = self.skipped_bytes = 0
        self.topics: dict[int, Topic] = {}
        self._paths = paths

    def __iter__(self) -> Iterator[Message]:
        for path in self._paths:
            with ExitStack() as stack:
                messages = open_messages(path, stack)
                yield from messages
                self.cut |= messages.cut
                self.skipped += messages.skipped
                self.skipped_bytes += messages.skipped_bytes
                self.topics |= {len(self.topics) + number: topic for number, topic in messages.topics.items()}


class Db3Reader:
    """The messages of a ROS 2 bag in SQLite, in the order of their log times."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.size = path.stat().st_size
        self.cut = False
        self.skipped = self.skipped_bytes = 0
        self.topics: dict[int, Topic] = {}
        journal = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
        try:
            uri = f"{path.resolve().as_uri()}?mode=ro{journal}"
            self._connection = stack.enter_context(closing(sqlite3.connect(uri, uri=True)))
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CHUNK_BYTES)
            self._connection.text_factory = lambda text: text.decode(errors="backslashreplace")
            self._connection.execute("PRAGMA trusted_schema = OFF")
            for table in ("topics", "messages"):
                self._check_table(table)
            rows = self._connection.execute("SELECT id, name, type, serialization_format FROM topics")
            for number, name, schema, encoding in rows.fetchmany(MAX_TOPICS):
                self.topics[number] = Topic(str(name), str(encoding), str(schema))
        except sqlite3.Error as error:
            raise StreamError(f"it cannot be read as a ROS 2 bag ({error})") from error

    def __iter__(self) -> Iterator[Message]:
        allowed_bytes = FREE_BYTES + self.size
        try:
            rows = self._connection.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY timestamp")
            for sequence, (number, time_ns, data) in enumerate(rows):
                if number not in self.topics or not isinstance(time_ns, int) or not isinstance(data, bytes):
                    self.skipped += 1
                    continue
                allowed_bytes -= len(data)
                if allowed_bytes < 0:
                    raise sqlite3.DataError("it holds more than its size")
                yield Message(self.topics[number], sequence, time_ns, memoryview(data))
        except sqlite3.Error:
            self.cut = True

    def _check_table(self, name: str) -> None:
        """Raise sqlite3.Error for anything but a plain table: a view or a computed column can give rows without end."""
        query = "SELECT type, sql FROM sqlite_master WHERE name = ?"
        kind, sql = self._connection.execute(query, (name,)).fetchone() or ("", "")
        columns = self._connection.execute(f"PRAGMA table_xinfo({name})").fetchall() if kind == "table" else []
        if not columns or "VIRTUAL" in str(sql).upper() or any(column[6] for column in columns):
            raise sqlite3.DataError(f"it has no table {name}")


class Ros1Reader:
    """The messages of a ROS 1 bag, in the order of their log times."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.size = path.stat().st_size
        self.cut = False
        self.skipped = self.skipped_bytes = 0
        self._allowed_bytes = FREE_BYTES + MAX_RATIO * self.size
        reader_class, self._errors = _bounded_reader(self.size)
        try:
            self._reader = stack.enter_context(reader_class(path))
        except self._errors as error:
            hint = "; `rosbag reindex` mends a bag whose writer was killed"
            raise StreamError(f"it cannot be read as a ROS 1 bag ({error}){hint}") from error
        kinds = {bz2.decompress: self._bz2, lz4.frame.decompress: self._lz4}
        chunks = self._reader.chunks
        self._reader.chunks = {
            at: chunk._replace(decompressor=self._counted(kinds.get(chunk.decompressor, chunk.decompressor)))
            for at, chunk in chunks.items()
        }
        self.topics = {one.id: Topic(one.topic, "ros1", one.msgtype) for one in self._reader.connections}

    def __iter__(self) -> Iterator[Message]:
        try:
            for sequence, (connection, time_ns, data) in enumerate(self._reader.messages()):
                self._allow(len(data))
                yield Message(self.topics[connection.id], sequence, time_ns, memoryview(data))
        except self._errors:
            self.cut = True

    def _counted(self, decompress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def decompress_and_count(data: bytes) -> bytes:
            content = decompress(data)
            self._allow(len(content))
            return content

        return decompress_and_count

    def _allow(self, count: int) -> None:
        self._allowed_bytes -= count
        if self._allowed_bytes < 0:
            raise ValueError("it holds more than its size allows")

    def _bz2(self, data: bytes) -> bytes:
        return bz2.BZ2Decompressor().decompress(data, max_length=MAX_CHUNK_BYTES)

    def _lz4(self, data: bytes) -> bytes:
        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=MAX_CHUNK_BYTES))


def _bounded_reader(size: int) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return the reader class of `rosbags` with a bounded index, and its errors. size: of the file, bytes."""
    with needs_rosbags():
        from rosbags.rosbag1 import Reader, ReaderError

    class BoundedReader(Reader):
        """An index that names the same bytes many times would take more memory than the file has."""

        index_bytes = 0

        def read_index_data(self, pos: int, indexes: Any) -> None:
            begin = self.bio.tell() if self.bio else 0
            super().read_index_data(pos, indexes)
            self.index_bytes += self.bio.tell() - begin if self.bio else 0
            if self.index_bytes > size:
                raise ReaderError("its index is larger than the file")

    errors = (
        ReaderError,
        AssertionError,
        ValueError,
        KeyError,
        IndexError,
        OSError,
        EOFError,
        MemoryError,
        RuntimeError,
    )
    return BoundedReader, (*errors, struct.error)
