"""Writes an MCAP file in chunks that can be read independently.

Each chunk repeats the schemas and channels that its messages need, so that a damaged chunk spoils no other one; the public `mcap`
writer puts them into the first chunk only. The index at the end is for tools that seek. A file without it, because its writer was
killed, has lost none of its chunks.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import FileIO

import lz4.frame
from mcap import records
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from zlib_ng import zlib_ng

from stream.recording.payload import Schema

MAGIC = b"\x89MCAP0\r\n"
MAX_CHUNK_BYTES = 256 << 20
"""Largest chunk before compression: no reader has to take more memory for one."""

_MESSAGE = struct.Struct("<BQHIQQ")
_CHUNK = struct.Struct("<BQQQQII")
_FOOTER = struct.Struct("<BQQQ")  # its checksum follows
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Channel:
    """A topic of the file."""

    id: int
    definition: bytes
    """Its schema and the channel itself, as records."""
    compressed: bool
    """Whether a chunk with its messages is worth compressing."""


@dataclass(slots=True)
class _Chunk:
    """The chunk that is being filled."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    compressed: bool = False
    index: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """By channel, the log time and position of each message."""

    def append(self, *parts: bytes) -> None:
        self.parts += parts
        self.size += sum(map(len, parts))


class McapWriter:
    """Collects messages into a chunk, and appends chunks to an empty file.

    An OSError leaves the file with its earlier chunks and nothing behind them, so that `finish` can still be tried.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.file_bytes = 0
        """Size of the file, without the chunk that is being filled."""
        self._schemas: dict[str, records.Schema] = {}
        self._channels: list[records.Channel] = []
        self.counts = Counter[int]()
        """Messages in the file, by channel."""
        self._chunk = _Chunk()
        self._index: list[records.ChunkIndex] = []
        self._append(MAGIC + _packed([records.Header(profile="", library="babyagent")]))

    def channel(self, topic: str, schema: Schema, *, compressed: bool) -> Channel:
        """Begin a topic; all of its messages have the type `schema`."""
        new = records.Schema(len(self._schemas) + 1, schema.data, schema.schema_encoding, schema.name)
        record = self._schemas.setdefault(schema.name, new)
        channel = records.Channel(len(self._channels) + 1, topic, schema.message_encoding, {}, record.id)
        self._channels.append(channel)
        return Channel(channel.id, _packed([record, channel]), compressed)

    def add(self, channel: Channel, sequence: int, time_ns: int, *parts: bytes) -> None:
        """Add a message to the chunk. A chunk ends at `flush`, or before it becomes larger than readers allow."""
        size = sum(map(len, parts))
        if self._chunk.size + len(channel.definition) + _MESSAGE.size + size > MAX_CHUNK_BYTES:
            self.flush()
        chunk = self._chunk
        if channel.id not in chunk.index:
            chunk.append(channel.definition)
            chunk.compressed |= channel.compressed
        chunk.index.setdefault(channel.id, []).append((time_ns, chunk.size))
        length = _MESSAGE.size - 9 + size
        chunk.append(_MESSAGE.pack(Opcode.MESSAGE, length, channel.id, sequence & 0xFFFFFFFF, time_ns, time_ns), *parts)

    def flush(self, min_bytes: int = 1) -> None:
        """Append the chunk to the file if it has reached this size. If that fails, its messages are lost."""
        if self._chunk.size < min_bytes:
            return
        chunk, self._chunk = self._chunk, _Chunk()
        content = b"".join(chunk.parts)
        data = lz4.frame.compress(content) if chunk.compressed else content
        compression = "lz4" if chunk.compressed else ""
        times_ns = [time_ns for entries in chunk.index.values() for time_ns, _ in entries]
        start_ns, end_ns = min(times_ns), max(times_ns)
        length = _CHUNK.size - 9 + len(compression) + _LENGTH.size + len(data)
        crc = zlib_ng.crc32(content)
        head = _CHUNK.pack(Opcode.CHUNK, length, start_ns, end_ns, len(content), crc, len(compression))
        index, index_offsets = _message_index(chunk, self.file_bytes + 9 + length)
        record = records.ChunkIndex(
            chunk_length=9 + length,
            chunk_start_offset=self.file_bytes,
            compression=compression,
            compressed_size=len(data),
            message_end_time=end_ns,
            message_index_length=len(index),
            message_index_offsets=index_offsets,
            message_start_time=start_ns,
            uncompressed_size=len(content),
        )
        self._append(head, compression.encode(), _LENGTH.pack(len(data)), data, index)
        self._index.append(record)
        self.counts.update({channel_id: len(entries) for channel_id, entries in chunk.index.items()})

    def finish(self) -> None:
        """Append the last chunk and the index. Nothing can be added afterwards."""
        self.flush()
        data_end = _packed([records.DataEnd(data_section_crc=0)])
        start = self.file_bytes + len(data_end)
        groups: dict[Opcode, Sequence[records.McapRecord]] = {
            Opcode.SCHEMA: list(self._schemas.values()),
            Opcode.CHANNEL: self._channels,
            Opcode.STATISTICS: [self._statistics()],
            Opcode.CHUNK_INDEX: self._index,
        }
        summary, offsets = b"", []
        for opcode, group in groups.items():
            packed = _packed(group)
            if packed:
                offsets.append(records.SummaryOffset(opcode, start + len(summary), len(packed)))
            summary += packed
        offset_start = start + len(summary)
        summary += _packed(offsets)
        footer = _FOOTER.pack(Opcode.FOOTER, _FOOTER.size + 4 - 9, start, offset_start)
        crc = zlib_ng.crc32(footer, zlib_ng.crc32(summary))
        self._append(data_end, summary, footer, crc.to_bytes(4, "little"), MAGIC)

    def _statistics(self) -> records.Statistics:
        return records.Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts=dict(self.counts),
            chunk_count=len(self._index),
            message_count=self.counts.total(),
            message_end_time=max((chunk.message_end_time for chunk in self._index), default=0),
            message_start_time=min((chunk.message_start_time for chunk in self._index), default=0),
            metadata_count=0,
            schema_count=len(self._schemas),
        )

    def _append(self, *parts: bytes) -> None:
        """Write all of the data; if that fails, restore the file as it was."""
        try:
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self.file_bytes)
            self._file.seek(self.file_bytes)
            raise
        self.file_bytes += sum(map(len, parts))


def _message_index(chunk: _Chunk, place: int) -> tuple[bytes, dict[int, int]]:
    """Return the records that list where in the chunk each channel's messages are, and the positions of these records."""
    index, offsets = b"", {}
    for channel_id, entries in chunk.index.items():
        offsets[channel_id] = place + len(index)
        index += _packed([records.MessageIndex(channel_id, entries)])
    return index, offsets


def _packed(group: Sequence[records.McapRecord]) -> bytes:
    builder = RecordBuilder()
    for record in group:
        record.write(builder)
    return bytes(builder.end())  # type: ignore[no-untyped-call]
