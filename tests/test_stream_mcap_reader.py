"""The work of reading an MCAP file is bounded by its size; what other writers compress well is read all the same."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import lz4.frame
import pytest
import zstandard
from mcap.opcode import Opcode
from mcap.writer import CompressionType, Writer

from stream.recording import mcap_reader
from stream.recording.mcap_reader import FREE_RECORDS, MAX_RATIO, McapReader
from stream.recording.mcap_writer import MAGIC

COMPRESS: dict[bytes, Callable[[bytes], bytes]] = {b"zstd": zstandard.compress, b"lz4": lz4.frame.compress, b"": bytes}


def record(opcode: int, body: bytes = b"") -> bytes:
    return struct.pack("<BQ", opcode, len(body)) + body


def chunk(content: bytes, compression: bytes) -> bytes:
    data = COMPRESS[compression](content)
    head = struct.pack("<QQQI", 0, 0, len(content), zlib.crc32(content)) + struct.pack("<I", len(compression))
    return record(Opcode.CHUNK, head + compression + struct.pack("<Q", len(data)) + data)


def message(channel: int = 1) -> bytes:
    return record(Opcode.MESSAGE, struct.pack("<HIQQ", channel, 0, 0, 0))


TOPIC = record(Opcode.CHANNEL, struct.pack("<HH", 1, 0) + struct.pack("<I", 2) + b"/a" + bytes(8))
KINDS = {"nothing": record(0), "private": record(0x80), "message": message(), "channel": TOPIC, "index": record(7)}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records that were parsed, and bytes that chunks were decompressed to."""
    done, parse, decompress = [0, 0], McapReader._read_record, mcap_reader._decompress

    def counted(reader: McapReader, opcode: int, content: memoryview) -> Any:
        done[0] += 1
        return parse(reader, opcode, content)

    def measured(data: memoryview, declared: Any) -> memoryview:
        content = decompress(data, declared)
        done[1] += len(content)
        return content

    monkeypatch.setattr(McapReader, "_read_record", counted)
    monkeypatch.setattr(mcap_reader, "_decompress", measured)
    return done


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", [b"zstd", b"lz4"])
@pytest.mark.parametrize("chunks", [1, 5])
def test_a_few_bytes_cannot_stand_for_millions_of_records(
    kind: str, compression: bytes, chunks: int, work: list[int]
) -> None:
    bomb = MAGIC + chunk(TOPIC + KINDS[kind] * 100_000, compression) * chunks
    reader = McapReader(io.BytesIO(bomb))
    messages = sum(1 for _ in reader)
    assert reader.skipped == chunks
    assert work[0] <= len(bomb) + chunks * FREE_RECORDS
    assert (messages > 0) == (kind == "message")


def test_a_file_decompresses_to_no_more_than_its_size_allows(monkeypatch: pytest.MonkeyPatch, work: list[int]) -> None:
    monkeypatch.setattr(mcap_reader, "FREE_BYTES", 1 << 20)
    bomb = MAGIC + chunk(record(Opcode.METADATA, bytes(1 << 19)), b"zstd") * 50
    reader = McapReader(io.BytesIO(bomb))
    assert list(reader) == []
    assert 1 << 20 <= work[1] <= (1 << 20) + MAX_RATIO * len(bomb)
    assert reader.skipped > 20


@pytest.mark.parametrize("compression", CompressionType)
def test_what_another_writer_compresses_best_is_read_whole(compression: CompressionType) -> None:
    """Empty messages at an even rate: nothing in them but their numbers and times."""
    file = io.BytesIO()
    writer = Writer(file, compression=compression, chunk_size=1 << 20)
    writer.start()
    topic = writer.register_channel("/tick", "json", 0)
    for seq in range(20_000):
        writer.add_message(topic, seq * 1_000_000, b"", seq * 1_000_000, seq)
    still = writer.register_channel("/still", "json", 0)
    for seq in range(40):  # a black picture, again and again
        writer.add_message(still, seq * 1_000_000, bytes(1 << 20), seq * 1_000_000, seq)
    writer.finish()  # type: ignore[no-untyped-call]
    reader = McapReader(file)
    assert sum(1 for _ in reader) == 20_040
    assert (reader.skipped, reader.cut) == (0, False)
