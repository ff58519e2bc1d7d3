"""Reads the messages of an MCAP file in the order in which they were written, however damaged the file is.

It reads record by record, and compares each declared size with the bytes that are there before it uses it. A chunk with a wrong
checksum is skipped by its length. Where the lengths themselves are wrong, the reader searches for the next chunk. So a flipped
bit costs one chunk, and a file that was cut is read up to its last whole chunk. It holds one chunk in memory. The work is bounded
by the size of the file: bytes after decompression, and records.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import lz4.frame
import zstandard
from mcap.opcode import Opcode
from zlib_ng import zlib_ng

from stream.errors import StreamError
from stream.recording.mcap_writer import MAGIC, MAX_CHUNK_BYTES

MAX_NAME_BYTES = 1024
FREE_BYTES = 256 << 20
MAX_RATIO = 1024
"""A file may decompress to FREE_BYTES and this many times its own size. A byte of zstd can stand for 32 000."""
FREE_RECORDS = 256
"""A chunk may hold so many records, and one more for each byte that it has in the file. Numbers and times alone take 3 bytes."""

_RECORD = struct.Struct("<BQ")
_CHUNK = struct.Struct("<QQQII")
_MESSAGE = struct.Struct("<HIQQ")
_LENGTH = struct.Struct("<Q")
_COUNT = struct.Struct("<I")
_NUMBER = struct.Struct("<H")
_FOOTER = _RECORD.pack(Opcode.FOOTER, 20)
_END_BYTES = len(_FOOTER) + 20 + len(MAGIC)
_PRIVATE = 0x80
"""Opcodes from here on are free for private use."""
_IGNORED = (Opcode.HEADER, Opcode.MESSAGE_INDEX, Opcode.ATTACHMENT, Opcode.METADATA)
_PREFIX_BYTES = 64
"""Number of bytes that show what a record is; of a chunk, everything before its content."""
_SEARCH_BYTES = (1 << 12, 1 << 20)
"""Sizes of the blocks in which the next chunk is searched for: small ones first, because it is mostly near."""
_MAYBE_CHUNK = re.compile(rb"\x06(?=[\s\S]{4}\0{4})")  # its opcode, and a length below 4 GiB


@dataclass(frozen=True, slots=True)
class Topic:
    """A channel of the file."""

    name: str
    encoding: str
    """Encoding of its messages: protobuf, json, cdr ..."""
    schema: str
    """Name of their schema, "" if there is none."""


class Message(NamedTuple):
    """A message as it stands in the file."""

    topic: Topic
    sequence: int
    time_ns: int
    """The log time of the message."""
    data: memoryview
    """Valid until the next message is requested."""


class _Record(NamedTuple):
    """The position of a record in the file."""

    opcode: int
    place: int
    content: int
    end: int
    prefix: bytes
    """The first bytes of the record."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The declared sizes and checksum of a chunk."""

    size: int
    """Size of the content before compression, bytes."""
    crc: int
    """CRC-32 of the content; 0 if the chunk has no checksum."""
    compression: bytes
    begin: int
    """Position of its content in the file."""


class McapReader:
    """Iterates once over the messages of a file that was opened for reading bytes; unbuffered is fastest.

    Raises StreamError for a file that is no MCAP file. A cut or damaged file is read as far as possible.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._end = self.size
        """Position where records end: the footer, or the end of a file that was cut."""
        self.cut = True
        """Whether the end of the file is missing."""
        self.skipped = 0
        """Records that were left out: damaged, or of an unknown kind."""
        self.skipped_bytes = 0
        self.topics: dict[int, Topic] = {}
        self._schemas: dict[int, str] = {}
        self._buffer = bytearray()
        self._allowed_bytes = FREE_BYTES + MAX_RATIO * self.size
        """How much the chunks that come may decompress to."""
        self._read_footer()
        if self.cut and not MAGIC.startswith(self._read(0, len(MAGIC))):
            raise StreamError("it is not an MCAP file")

    def __iter__(self) -> Iterator[Message]:
        place = trusted = len(MAGIC)
        while place < self._end:
            record = self._record(place)
            if record is None or not self._fits(record):
                # The damaged length may be that of the record before: the search begins after the last whole one.
                place = trusted = self._search(trusted)
                continue
            if record.opcode == Opcode.DATA_END:
                return
            yield from self._messages(record)
            place = record.end
            if record.opcode == Opcode.CHUNK:
                trusted = place

    def _read_footer(self) -> None:
        """Check whether the file has its end, and read the topics from there: their first copy may be in a damaged chunk."""
        footer = self._read(max(0, self.size - _END_BYTES), _END_BYTES)
        if not (footer.startswith(_FOOTER) and footer.endswith(MAGIC)):
            return
        self.cut = False
        self._end = self.size - _END_BYTES
        place = _LENGTH.unpack_from(footer, len(_FOOTER))[0] or self._end
        while place < self._end:
            record = self._record(place)
            if record is None or record.opcode not in (Opcode.SCHEMA, Opcode.CHANNEL) or record.end > self._end:
                return
            with suppress(ValueError):
                self._read_record(record.opcode, self._load(record.content, record.end))
            place = record.end

    def _fits(self, record: _Record) -> bool:
        """Return whether a record can have its declared length, given its kind and position."""
        length = record.end - record.content
        if record.end > self._end:
            return False
        if record.opcode == Opcode.CHUNK:
            return _chunk(record) is not None
        if record.opcode == Opcode.MESSAGE_INDEX:
            return length >= 6 and _COUNT.unpack_from(record.prefix, 11)[0] == length - 6
        return record.opcode != Opcode.DATA_END or length == 4

    def _search(self, place: int) -> int:
        """Return the position of the next whole chunk after `place`; the end of the file if there is none."""
        at, size = place + 1, _SEARCH_BYTES[0]
        while at < self._end:
            for match in _MAYBE_CHUNK.finditer(self._read(at, size + _PREFIX_BYTES)):
                record = self._record(at + match.start())
                if record is not None and self._fits(record):
                    self._skip(record.place - place)
                    return record.place
            at, size = at + size, min(4 * size, _SEARCH_BYTES[1])
        if not self.cut:  # in a cut file, the end is a record that was not written whole
            self._skip(self._end - place)
        return self._end

    def _messages(self, record: _Record) -> Iterator[Message]:
        try:
            if record.opcode == Opcode.CHUNK:
                most = FREE_RECORDS + record.end - record.place
                yield from self._parse(self._content(record), most)
            elif record.opcode in (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE):
                yield from self._read_record(record.opcode, self._load(record.content, record.end))
            elif record.opcode not in _IGNORED:
                raise ValueError("its kind is unknown")
        except ValueError:
            self._skip(record.end - record.place)

    def _content(self, record: _Record) -> memoryview:
        """Return the records in a chunk. Raises ValueError for a wrong checksum or size."""
        chunk = _chunk(record)
        if chunk is None or chunk.size > min(MAX_CHUNK_BYTES, self._allowed_bytes):
            raise ValueError("a chunk is out of bounds")
        self._allowed_bytes -= chunk.size
        content = _decompress(self._load(chunk.begin, record.end), chunk)
        if len(content) != chunk.size or (chunk.crc and zlib_ng.crc32(content) != chunk.crc):
            raise ValueError("a chunk is damaged")
        return content

    def _parse(self, content: memoryview, max_records: int) -> Iterator[Message]:
        """Yield the messages in a chunk.

        Raises ValueError for malformed records and for too many of them, after the messages before them.
        """
        place = 0
        for _ in range(max_records):
            if place >= len(content):
                return
            begin = place + _RECORD.size
            if begin > len(content):
                raise ValueError("a record is cut off by the end of its chunk")
            opcode, length = _RECORD.unpack_from(content, place)
            place = begin + length
            if place > len(content):
                raise ValueError("a record reaches beyond its chunk")
            yield from self._read_record(opcode, content[begin:place])
        if place < len(content):
            raise ValueError(f"a chunk holds more than {max_records} records")

    def _read_record(self, opcode: int, content: memoryview) -> list[Message]:
        """Note the schema or the topic in a record, or return its message. Raises ValueError for a malformed record."""
        try:
            if opcode == Opcode.MESSAGE:
                channel, sequence, time_ns, _ = _MESSAGE.unpack_from(content)
                return [Message(self.topics[channel], sequence, time_ns, content[_MESSAGE.size :])]
            if opcode == Opcode.SCHEMA:
                self._schemas[_number(content, 0)], _ = _name(content, 2)
            elif opcode == Opcode.CHANNEL:
                name, place = _name(content, 4)
                encoding, _ = _name(content, place)
                self.topics[_number(content, 0)] = Topic(name, encoding, self._schemas.get(_number(content, 2), ""))
        except (struct.error, KeyError) as error:
            raise ValueError("the record is malformed") from error
        return []

    def _record(self, place: int) -> _Record | None:
        """Return the record that begins at a position; None if none can."""
        prefix = self._read(place, _PREFIX_BYTES)
        if len(prefix) < _RECORD.size:
            return None
        opcode, length = _RECORD.unpack_from(prefix)
        if not (Opcode.HEADER <= opcode <= Opcode.DATA_END or opcode >= _PRIVATE):
            return None
        content = place + _RECORD.size
        return _Record(opcode, place, content, content + length, prefix)

    def _read(self, place: int, count: int) -> bytes:
        """Read at most `count` bytes at a position."""
        self._file.seek(place)
        return self._file.read(count)

    def _load(self, begin: int, end: int) -> memoryview:
        """Read these bytes into a buffer that the next call fills again."""
        count = end - begin
        if count > MAX_CHUNK_BYTES:
            raise ValueError(f"a record of {count} bytes is out of bounds")
        if len(self._buffer) < count:
            self._buffer = bytearray(count)
        view = memoryview(self._buffer)[:count]
        self._file.seek(begin)
        if self._file.readinto(view) != count:  # type: ignore[attr-defined]
            raise ValueError("the file has become shorter")
        return view

    def _skip(self, count: int) -> None:
        self.skipped += 1
        self.skipped_bytes += count


def _chunk(record: _Record) -> _Chunk | None:
    """Return the declared sizes and checksum of a chunk; None if its sizes contradict each other."""
    try:
        _, _, size, crc, count = _CHUNK.unpack_from(record.prefix, _RECORD.size)
        at = _RECORD.size + _CHUNK.size + count
        (data_bytes,) = _LENGTH.unpack_from(record.prefix, at)
    except struct.error:
        return None
    begin = record.place + at + _LENGTH.size
    return _Chunk(size, crc, record.prefix[at - count : at], begin) if begin + data_bytes == record.end else None


def _decompress(data: memoryview, chunk: _Chunk) -> memoryview:
    """Return the content of a chunk, at most one byte more than it declares."""
    try:
        match chunk.compression:
            case b"":
                return data
            case b"lz4":
                return memoryview(lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=chunk.size + 1))
            case b"zstd":
                return memoryview(zstandard.ZstdDecompressor().stream_reader(data).read(chunk.size + 1))
    except (RuntimeError, zstandard.ZstdError) as error:
        raise ValueError(f"the chunk does not decompress: {error}") from error
    raise ValueError(f"a chunk compressed with {chunk.compression!r} is not read")


def _number(content: memoryview, place: int) -> int:
    return int(_NUMBER.unpack_from(content, place)[0])


def _name(content: memoryview, place: int) -> tuple[str, int]:
    """Return the text at a position in a record, and the position behind it."""
    (count,) = _COUNT.unpack_from(content, place)
    begin = place + _COUNT.size
    if count > MAX_NAME_BYTES or begin + count > len(content):
        raise ValueError(f"a name of {count} bytes is out of bounds")
    return str(content[begin : begin + count], "utf-8"), begin + count
