"""Damaged recordings: a cut, a flipped bit or a lie costs at most the chunks that it touches, and is counted."""

from __future__ import annotations

import io
import logging
import os
import random
import struct
import tracemalloc
import zlib
from itertools import pairwise
from pathlib import Path

import lz4.frame
import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Chunk
from mcap.stream_reader import StreamReader, get_chunk_data_stream
from recorded import Foreign, first_chunk, made, read_pairs, reader_of, recorded, some, to_its_end

from stream.codec import from_parts, to_parts
from stream.errors import StreamError
from stream.pair import EncodedPair
from stream.recording.mcap_writer import MAGIC, MAX_CHUNK_BYTES
from stream.recording.payload import header_data
from stream.recording.reader import open_recording
from stream.recording.source import RecordingSource
from stream.recording.writer import RecordingWriter

MIXED = [made(seq, "lz4" if seq % 3 == 0 else "jpeg", shape=(4, 6, 3)) for seq in range(9)]


def pairs_or_error(data: bytes) -> list[EncodedPair]:
    """What is read of any bytes; nothing where they are refused."""
    try:
        return read_pairs(data)
    except StreamError:
        return []


@pytest.fixture
def silent(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of damaged files are read faster when none of them is told about."""
    caplog.set_level(logging.ERROR)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[int]]:
    """A recording of MIXED in chunks of two or three pairs, and where its chunks end."""
    path = tmp_path_factory.mktemp("small") / "small.mcap"
    ends = []
    with RecordingWriter(path) as writer:
        for pair in MIXED:
            writer.write(pair)
            if pair.header.seq % 3 == 2:
                writer.sync()
                ends.append(writer.file_bytes)
    return path.read_bytes(), ends


def test_every_chunk_stands_alone(small: tuple[bytes, list[int]]) -> None:
    data, ends = small
    chunks = [data[begin:end] for begin, end in pairwise([first_chunk(data), *ends])]
    found = [read_pairs(MAGIC + chunk) for chunk in chunks]
    assert found == [MIXED[:3], MIXED[3:6], MIXED[6:]]


@pytest.mark.usefixtures("silent")
def test_a_file_cut_at_any_byte_is_read_up_to_its_last_whole_chunk(small: tuple[bytes, list[int]]) -> None:
    data, ends = small
    for cut in range(len(data)):
        reader, pairs = reader_of(data[:cut])
        assert pairs == MIXED[: 3 * sum(end <= cut for end in ends)] or _ends_in_the_index(pairs, cut, ends)
        assert reader.messages.cut
        assert reader.messages.skipped == 0


def _ends_in_the_index(pairs: list[EncodedPair], cut: int, ends: list[int]) -> bool:
    """A chunk is whole before the index of its messages, which follows it, is."""
    whole = sum(end <= cut for end in ends)
    return whole < len(ends) and ends[whole] - cut < 300 and pairs == MIXED[: 3 * (whole + 1)]


@pytest.mark.usefixtures("silent")
def test_a_larger_file_cut_at_a_thousand_places_loses_at_most_a_chunk(tmp_path: Path) -> None:
    pairs = [made(seq, shape=(96, 128, 3)) for seq in range(120)]
    path = tmp_path / "walk.mcap"
    marks = []
    with RecordingWriter(path) as writer:
        for pair in pairs:
            writer.write(pair)
            marks.append((writer.file_bytes, writer.pairs))
    data = path.read_bytes()
    assert len(data) > 2 << 20
    for cut in random.Random(0).sample(range(len(data)), 1000):
        found = read_pairs(data[:cut])
        assert found == pairs[: len(found)]
        assert len(found) >= max((count for size, count in marks if size <= cut), default=0)


@pytest.mark.usefixtures("silent")
def test_a_flipped_bit_costs_at_most_its_chunk_and_is_counted(small: tuple[bytes, list[int]]) -> None:
    data, _ = small
    bits = random.Random(1)
    for place in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[place] ^= 1 << bits.randrange(8)
        reader, pairs = reader_of(bytes(flipped))
        assert [pair for pair in pairs if pair not in MIXED] == []
        assert pairs == sorted(pairs, key=lambda pair: pair.header.seq)
        assert len(pairs) >= len(MIXED) - 3
        assert len(pairs) == len(MIXED) or reader.messages.skipped or reader.unreadable


@pytest.mark.parametrize("bit", range(64))
def test_a_flipped_bit_in_the_length_of_a_chunk_costs_that_chunk(small: tuple[bytes, list[int]], bit: int) -> None:
    data, ends = small
    flipped = bytearray(data)
    flipped[ends[0] + 1 + bit // 8] ^= 1 << bit % 8
    reader, pairs = reader_of(bytes(flipped))
    assert pairs == MIXED[:3] + MIXED[6:]
    assert reader.messages.skipped == 1


@pytest.mark.parametrize("bit", range(8))
def test_a_chunk_that_seems_to_be_another_record_is_counted(small: tuple[bytes, list[int]], bit: int) -> None:
    data, ends = small
    flipped = bytearray(data)
    flipped[ends[0]] ^= 1 << bit
    reader, pairs = reader_of(bytes(flipped))
    assert pairs == MIXED[:3] + MIXED[6:]
    assert reader.messages.skipped >= 1


@pytest.mark.usefixtures("silent")
def test_a_flipped_bit_in_the_length_of_another_record_costs_nothing(small: tuple[bytes, list[int]]) -> None:
    data, _ = small
    for place in _records(data, Opcode.HEADER, Opcode.MESSAGE_INDEX):
        for bit in range(64):
            flipped = bytearray(data)
            flipped[place + 1 + bit // 8] ^= 1 << bit % 8
            assert read_pairs(bytes(flipped)) == MIXED


def test_a_hole_torn_into_a_file_costs_the_chunks_it_touches(small: tuple[bytes, list[int]]) -> None:
    data, ends = small
    middle = (ends[0] + ends[1]) // 2
    for wound in (b"", bytes(5000), os.urandom(3000)):
        reader, pairs = reader_of(data[:middle] + wound + data[middle + 100 :])
        assert pairs == MIXED[:3] + MIXED[6:]
        assert reader.messages.skipped >= 1


def test_zeros_at_the_end_are_a_cut(small: tuple[bytes, list[int]]) -> None:
    data, ends = small
    reader, pairs = reader_of(data[: ends[1]] + bytes(1 << 16))  # what some file systems leave after a power cut
    assert pairs == MIXED[:6]
    assert (reader.messages.cut, reader.messages.skipped) == (True, 0)


def test_everything_wrong_with_a_file_is_said_in_one_warning(
    small: tuple[bytes, list[int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, ends = small
    damaged = bytearray(data[:-1])
    damaged[ends[0] + 100] ^= 1
    (tmp_path / "walk.mcap").write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert to_its_end(RecordingSource([tmp_path / "walk.mcap"])) == MIXED[:3] + MIXED[6:]
    [record] = caplog.records
    assert "walk.mcap" in record.message
    assert "end is missing" in record.message
    assert "1 damaged" in record.message
    assert "recover" in record.message


def test_a_whole_file_is_read_without_a_word(small: tuple[bytes, list[int]], caplog: pytest.LogCaptureFixture) -> None:
    assert read_pairs(small[0]) == MIXED
    assert caplog.records == []


@settings(max_examples=300)
@given(st.data())
def test_no_damage_makes_the_reader_fail_or_invent_a_pair(small: tuple[bytes, list[int]], data: st.DataObject) -> None:
    mangled = bytearray(small[0])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mangled)))
        mangled[at : at + data.draw(st.integers(0, 200))] = data.draw(st.binary(max_size=200))
    assert [pair for pair in pairs_or_error(bytes(mangled)) if pair not in MIXED] == []


@settings(max_examples=300)
@given(st.binary(max_size=400), st.lists(st.tuples(st.sampled_from(list(Opcode)), st.binary(max_size=120)), max_size=8))
def test_any_bytes_and_any_records_are_read_without_failing(tail: bytes, records: list[tuple[Opcode, bytes]]) -> None:
    framed = b"".join(struct.pack("<BQ", opcode, len(body)) + body for opcode, body in records)
    for data in (tail, MAGIC + framed + tail, MAGIC + framed + _chunk(framed)):
        assert [pair for pair in pairs_or_error(data) if from_parts(to_parts(pair)) != pair] == []


@settings(max_examples=200)
@given(st.data())
def test_damage_under_a_right_checksum_gives_only_pairs_that_can_travel(
    small: tuple[bytes, list[int]], data: st.DataObject
) -> None:
    """What a bad writer makes: the content of a chunk is mangled before its checksum is taken."""
    content = bytearray(_contents(small[0])[0])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    pairs = pairs_or_error(MAGIC + _chunk(bytes(content)))
    assert [pair for pair in pairs if from_parts(to_parts(pair)) != pair] == []


def test_no_declared_size_takes_memory_that_the_file_does_not_have(small: tuple[bytes, list[int]]) -> None:
    zeros = bytes(64 << 20)
    bombs = [
        _chunk(zeros, compression=b"lz4", data=lz4.frame.compress(zeros), size=1000),
        _chunk(zeros, compression=b"zstd", data=zstandard.compress(zeros), size=1000),
        _chunk(b"", compression=b"zstd", data=zstandard.compress(zeros), size=MAX_CHUNK_BYTES + 1),
        _chunk(b"", size=1 << 60),
        struct.pack("<BQ", Opcode.CHUNK, 1 << 40),
        struct.pack("<BQ", Opcode.SCHEMA, 1 << 39),
        _chunk(struct.pack("<BQHI", Opcode.SCHEMA, 6, 1, 1 << 31)),
        _chunk(struct.pack("<BQ", Opcode.MESSAGE, 1 << 50)),
    ]
    inputs = [MAGIC + bomb + small[0][first_chunk(small[0]) :] for bomb in bombs]
    for data in inputs:
        tracemalloc.start()
        pairs = read_pairs(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert pairs == MIXED
        assert peak_bytes < 2 << 20


@pytest.mark.parametrize("kind", ["chunk", "compressed chunk", "message"])
def test_a_record_larger_than_allowed_is_passed_over_without_reading_it(
    small: tuple[bytes, list[int]], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "sparse.mcap"
    size = MAX_CHUNK_BYTES + 1000
    compression, declared = (b"zstd", 100) if kind == "compressed chunk" else (b"", size)
    head = _chunk(b"", compression=compression, size=declared)[9:-8] + struct.pack("<Q", size)
    head, opcode = (b"", Opcode.MESSAGE) if kind == "message" else (head, Opcode.CHUNK)
    with path.open("wb") as file:
        file.write(MAGIC + struct.pack("<BQ", opcode, len(head) + size) + head)
        file.seek(size, os.SEEK_CUR)
        file.write(small[0][first_chunk(small[0]) :])
    tracemalloc.start()
    with open_recording(path) as reader:
        pairs = list(reader)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pairs == MIXED
    assert (reader.messages.skipped, reader.messages.skipped_bytes) == (1, 9 + len(head) + size)
    assert peak_bytes < 2 << 20


def test_images_and_header_that_do_not_belong_together_are_left_out_under_any_checksum(tmp_path: Path) -> None:
    for codec in ("jpeg", "lz4"):
        pairs = some(3, codec)
        own = header_data(pairs[1].header)
        taller = header_data(msgspec.structs.replace(pairs[1].header, height=25))
        changes = (pairs[1].left[100:110], bytes(10)) if codec == "jpeg" else (own, taller)
        [content] = _contents(recorded(tmp_path / f"{codec}.mcap", pairs).read_bytes())
        at = content.index(changes[0], content.index(own))
        changed = content[:at] + changes[1] + content[at + len(changes[1]) :]
        reader, found = reader_of(MAGIC + _chunk(changed))
        assert found == [pairs[0], pairs[2]]
        assert reader.unreadable == 1


def test_a_file_that_another_tool_copied_with_messages_missing_gives_its_whole_pairs(tmp_path: Path) -> None:
    data = recorded(tmp_path / "walk.mcap", some(6)).read_bytes()
    copy = Foreign()
    reader = make_reader(io.BytesIO(data))
    summary = reader.get_summary()
    assert summary is not None
    schemas = {
        schema.id: copy.writer.register_schema(schema.name, schema.encoding, schema.data)
        for schema in summary.schemas.values()
    }
    for schema, channel, message in reader.iter_messages(log_time_order=False):
        assert schema is not None
        if channel.topic not in copy.channels:
            number = copy.writer.register_channel(channel.topic, channel.message_encoding, schemas[schema.id])
            copy.channels[channel.topic] = number
        missing = {1: "/stereo/left/image", 2: "/stereo/meta", 4: "/stereo/right/image"}
        if missing.get(message.sequence) != channel.topic:
            number = copy.channels[channel.topic]
            copy.writer.add_message(number, message.log_time, message.data, message.publish_time, message.sequence)
    reader_of_copy, pairs = reader_of(copy.end())
    assert pairs == [made(0), made(3), made(5)]
    assert reader_of_copy.unreadable == 3


def test_a_long_recording_is_read_in_the_memory_of_a_chunk(tmp_path: Path) -> None:
    path = tmp_path / "walk.mcap"
    with RecordingWriter(path) as writer:
        for seq in range(400):
            writer.write(made(seq % 20, shape=(160, 200, 3)))
    assert path.stat().st_size > 16 << 20
    tracemalloc.start()
    with open_recording(path) as reader:
        count = sum(1 for _ in reader)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 400
    assert peak_bytes < 3 << 20


def _chunk(content: bytes, *, compression: bytes = b"", data: bytes | None = None, size: int | None = None) -> bytes:
    """A chunk record; what it declares may be a lie."""
    data = content if data is None else data
    size = len(content) if size is None else size
    body = struct.pack("<QQQI", 0, 0, size, zlib.crc32(content)) + struct.pack("<I", len(compression)) + compression
    body += struct.pack("<Q", len(data)) + data
    return struct.pack("<BQ", Opcode.CHUNK, len(body)) + body


def _records(data: bytes, *opcodes: Opcode) -> list[int]:
    """Where the records of these kinds begin in an undamaged file, up to its end of data."""
    places, place = [], len(MAGIC)
    while data[place] != Opcode.DATA_END:
        if data[place] in opcodes:
            places.append(place)
        place += 9 + int.from_bytes(data[place + 1 : place + 9], "little")
    return places


def _contents(data: bytes) -> list[bytes]:
    """What is in the chunks, decompressed."""
    records = StreamReader(io.BytesIO(data), emit_chunks=True).records
    chunks = [record for record in records if isinstance(record, Chunk)]
    return [get_chunk_data_stream(chunk)[0].read(chunk.uncompressed_size) for chunk in chunks]
