"""Reads what consumers have made durable: the newest commit of a store, and recordings. No code of the product is used.

A cursor is as `benchmarks.faults.check` describes it. Files may be cut off or beside a process that writes them.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import lz4.frame
import msgspec
import numpy as np
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from benchmarks.faults.check import Cursor, Entered, Ranges

CHECKSUM_BYTES = 4
WITH_SIGNALS = 3
"""The wire version of a pair with something beside its images."""
MAGIC_BYTES = 8
SCHEMA_RECORD, CHANNEL_RECORD, MESSAGE_RECORD, CHUNK_RECORD = 3, 4, 5, 6
_ARRIVAL = struct.Struct("<Iq")


class StoredCommit(NamedTuple):
    """A commit in a store: its number from 1, its keys and its note."""

    number: int
    keys: bytes
    """Each 8 bytes, little-endian."""
    note: bytes


def newest_commit(store: Path) -> StoredCommit | None:
    """Return the newest commit in the SQLite file of a learner's store; None: there is none, or the file is no database."""
    rows = _rows(store, "SELECT number, keys, note FROM commits ORDER BY number DESC LIMIT 1")
    return StoredCommit(*rows[0]) if rows else None


def committed_items(store: Path) -> list[bytes]:
    """Return the items of the newest commit, in the order of their keys."""
    commit, items = newest_commit(store), dict(_rows(store, "SELECT key, item FROM items"))
    return [] if commit is None else [items[key] for key in np.frombuffer(commit.keys, "<i8").tolist()]


def listed(item: bytes) -> Entered:
    """Return the pair in an item of the learner that lists pairs: header part, checksum of the images, time of arrival."""
    return _entered(item[: -_ARRIVAL.size], *_ARRIVAL.unpack(item[-_ARRIVAL.size :]))


def remembered(item: bytes) -> Entered:
    """Return the pair in an item of `python -m learner`: header part, left and right image. It has no time of arrival."""
    header, left, right = msgspec.msgpack.decode(item)
    return _entered(header, zlib.crc32(right, zlib.crc32(left)), 0)


def recorded(paths: Iterable[Path]) -> tuple[list[Entered], Cursor]:
    """Return the pairs in the whole chunks of all files of a recording, and a cursor with what its receipts count as lost."""
    entered: list[Entered] = []
    lost: dict[tuple[str, str], set[int]] = {}
    for topic, message in (one for path in paths for one in _messages(path)):
        if topic.endswith(b"/meta"):
            entered.append(Entered(message.device, message.epoch, message.seq, message.crc, 0))
        else:
            numbers, ends = lost.setdefault((message.device, message.epoch), set()), message.lost
            numbers.update(seq for first, last in zip(ends[::2], ends[1::2], strict=True) for seq in range(first, last))
    for pair in entered:  # a pair that came after all is lost no more
        lost.get((pair.device, pair.epoch), set()).discard(pair.seq)
    return entered, recorded_cursor(entered, {key: joined((seq, seq + 1) for seq in one) for key, one in lost.items()})


def _messages(path: Path) -> Iterator[tuple[bytes, Any]]:
    """Yield topic and content of the headers and receipts, by the protobuf schemas in the file."""
    types: dict[int, Any] = {}
    topics: dict[int, tuple[bytes, int]] = {}
    with path.open("rb") as file:
        data = memoryview(file.read())
    for kind, body in _records(data[MAGIC_BYTES:]):
        records = _records(_unpacked(body)) if kind == CHUNK_RECORD else [(kind, body)]
        for inner, record in records:
            (number,) = struct.unpack_from("<H", record)
            if inner == SCHEMA_RECORD:
                types[number] = _message_type(record[2:])
            elif inner == CHANNEL_RECORD:
                schema, size = struct.unpack_from("<HI", record, 2)
                topics[number] = bytes(record[8 : 8 + size]), schema
            elif inner == MESSAGE_RECORD and topics[number][0].endswith((b"/meta", b"/receipt")):
                topic, schema = topics[number]
                yield topic, types[schema].FromString(bytes(record[22:]))


def _message_type(record: memoryview) -> Any:
    """Return the class of the messages of a schema. record: name, encoding and data, each behind its length."""
    parts = []
    for _ in range(3):
        (size,) = struct.unpack_from("<I", record)
        parts.append(bytes(record[4 : 4 + size]))
        record = record[4 + size :]
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(parts[2]).file:
        pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(parts[0].decode()))


def committed_cursor(store: Path) -> Cursor:
    """Return the cursor of the newest commit; empty if there is none."""
    commit = newest_commit(store)
    note = {} if commit is None else json.loads(commit.note)
    return dict(note.get("cursor", note))


def recorded_cursor(entered: Iterable[Entered], lost: Mapping[tuple[str, str], Ranges]) -> Cursor:
    """Return the cursor of a recording from its pairs and from what it counts as lost, by device and epoch."""
    numbers: dict[tuple[str, str], set[int]] = {}
    for pair in entered:
        numbers.setdefault((pair.device, pair.epoch), set()).add(pair.seq)
    devices: dict[str, Any] = {}
    for device, epoch in sorted({*numbers, *lost}):
        gone = lost.get((device, epoch), [])
        done = joined([*((seq, seq + 1) for seq in numbers.get((device, epoch), ())), *gone])
        one = devices.setdefault(device, {"epochs": {}, "counts": {"lost": 0}})
        one["epochs"][epoch] = {"done": done, "lost": gone}
        one["counts"]["lost"] += sum(last - first for first, last in gone)
    return {"devices": devices}


def joined(ranges: Iterable[Sequence[int]]) -> Ranges:
    """Return ranges that rise and do not touch, with the same numbers."""
    result: list[list[int]] = []
    for first, last in sorted(map(tuple, ranges)):
        if result and first <= result[-1][1]:
            result[-1][1] = max(last, result[-1][1])
        else:
            result.append([first, last])
    return result


def _rows(store: Path, query: str) -> list[Any]:
    try:
        with closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.Error:
        return []


def _entered(header_part: bytes, crc: int, at_ns: int) -> Entered:
    version, *fields = msgspec.msgpack.decode(header_part[:-CHECKSUM_BYTES])
    if version == WITH_SIGNALS:  # around the header of version 2
        _, *fields = fields[0]
    device, epoch, seq, *_ = fields
    return Entered(device, epoch, seq, crc, at_ns)


def _records(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield kind and body of each record, up to one that is cut off."""
    at = 0
    while at + 9 <= len(data):
        (size,) = struct.unpack_from("<Q", data, at + 1)
        body = data[at + 9 : at + 9 + size]
        if len(body) < size or size < 2:
            return
        yield data[at], body
        at += 9 + size


def _unpacked(chunk: memoryview) -> memoryview:
    """Return the records in a chunk, behind times, size, checksum and compression."""
    (name_bytes,) = struct.unpack_from("<I", chunk, 28)
    data = chunk[32 + name_bytes + 8 :]
    return memoryview(lz4.frame.decompress(data)) if bytes(chunk[32 : 32 + name_bytes]) == b"lz4" else data
