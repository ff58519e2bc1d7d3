"""Recordings: what is written is read, by us and by other tools, whatever has happened to the file in between."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import random
import signal
import struct
import subprocess
import sys
import tracemalloc
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import lz4.frame
import msgspec
import numpy as np
import pytest
import zstandard
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Chunk
from mcap.stream_reader import StreamReader, get_chunk_data_stream
from mcap.writer import CompressionType, Writer
from mcap_protobuf.decoder import DecoderFactory
from mcap_protobuf.schema import register_schema
from recorded import EPOCH, NEXT_EPOCH, START_NS, made, read_pairs, recorded, some

from stream.codec import decode, encode_pair, from_parts, to_parts
from stream.errors import EndOfStream, MalformedMessage, StreamError
from stream.pair import Codec, EncodedPair
from stream.recording.foreign import EyeTopics
from stream.recording.mcap_reader import McapReader
from stream.recording.mcap_writer import MAGIC, MAX_CHUNK_BYTES
from stream.recording.payload import header_data, read_header
from stream.recording.reader import RecordingReader, open_recording
from stream.recording.receipts import Receipt
from stream.recording.source import MAX_PAUSE_S, RecordingSource
from stream.recording.writer import RecordingWriter

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
MIXED = [made(seq, "lz4" if seq % 3 == 0 else "jpeg", shape=(4, 6, 3)) for seq in range(9)]


def reader_of(data: bytes) -> tuple[RecordingReader, list[EncodedPair]]:
    reader = RecordingReader(McapReader(io.BytesIO(data)), "recording")
    return reader, list(reader)


def to_its_end(source: RecordingSource, limit: int = 4) -> list[EncodedPair]:
    pairs: list[EncodedPair] = []
    try:
        while True:
            pairs += source.receive(limit, 0.0)
    except EndOfStream:
        return pairs


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


@pytest.mark.parametrize("shape", [(24, 32, 3), (24, 32)])
@pytest.mark.parametrize("codec", ["jpeg", "lz4"])
def test_pairs_come_back_byte_for_byte_with_their_headers(tmp_path: Path, codec: Codec, shape: tuple[int, ...]) -> None:
    pairs = [made(seq, codec, shape=shape) for seq in range(20)]
    path = recorded(tmp_path / "walk.mcap", pairs)
    assert to_its_end(RecordingSource([path])) == pairs
    assert read_pairs(path.read_bytes()) == pairs


def test_every_field_of_a_header_comes_back(tmp_path: Path) -> None:
    image = np.zeros((4, 6), np.uint8)
    pair = encode_pair(
        image,
        image,
        device="r" * 64,
        epoch="0123456789abcdef" * 2,
        seq=(1 << 63) - 2,
        left_ns=(1 << 63) - 1,
        right_ns=0,
        kept="audit",
        suppressed=12,
        junk=3,
        clock_offset_ns=-5,
        clock_error_ns=(1 << 63) - 1,
    )
    assert read_pairs(recorded(tmp_path / "walk.mcap", [pair]).read_bytes()) == [pair]


def test_a_cameras_own_jpeg_with_zeros_behind_it_stays_as_it_is(tmp_path: Path) -> None:
    jpeg = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes() + bytes(100)
    pair = encode_pair(jpeg, jpeg, device="baby", epoch=EPOCH, seq=0, left_ns=1, right_ns=1)
    assert read_pairs(recorded(tmp_path / "walk.mcap", [pair]).read_bytes()) == [pair]


def test_rigs_epochs_and_codecs_share_a_file_in_the_order_they_arrived(tmp_path: Path) -> None:
    pairs = [
        made(seq, codec, device=device, epoch=epoch)
        for seq in range(4)
        for epoch in (EPOCH, NEXT_EPOCH)
        for device in ("baby", "stereo")
        for codec in ("jpeg", "lz4")
    ]
    path = recorded(tmp_path / "walk.mcap", pairs)
    assert read_pairs(path.read_bytes()) == pairs
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    assert {channel.topic for channel in summary.channels.values()} == {
        f"{rig}/stereo/{name}"
        for rig in ("", "/stereo")
        for name in ("meta", "left/image", "right/image", "left/image_raw", "right/image_raw")
    }


@pytest.mark.parametrize("codec", ["jpeg", "lz4"])
def test_the_public_reader_decodes_it_with_foxgloves_schemas(tmp_path: Path, codec: Codec) -> None:
    pairs = some(30, codec)
    path = recorded(tmp_path / "walk.mcap", pairs)
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.message_count == 3 * len(pairs)
        assert (summary.statistics.message_start_time, summary.statistics.message_end_time) == (
            pairs[0].header.left_ns,
            pairs[-1].header.left_ns,
        )
        for side in ("left", "right"):
            topic = f"/stereo/{side}/image" + ("" if codec == "jpeg" else "_raw")
            rows = list(reader.iter_decoded_messages(topics=[topic]))
            assert [row.message.log_time for row in rows] == [pair.header.left_ns for pair in pairs]
            for row, pair in zip(rows, pairs, strict=True):
                image = row.decoded_message
                assert row.schema is not None
                assert image.timestamp.ToNanoseconds() == getattr(pair.header, f"{side}_ns")
                assert image.frame_id == f"baby/{side}"
                if codec == "jpeg":
                    assert (row.schema.name, image.format) == ("foxglove.CompressedImage", "jpeg")
                    assert image.data == getattr(pair, side)
                else:
                    assert (row.schema.name, image.encoding, image.step) == ("foxglove.RawImage", "bgr8", 96)
                    assert image.data == getattr(decode(pair), side).tobytes()


def test_a_public_reader_decodes_every_message_at_the_first_try(tmp_path: Path) -> None:
    path = tmp_path / "walk.mcap"
    with RecordingWriter(path) as writer:
        writer.write(made(5))
        writer.write_receipt(Receipt(device="baby", epoch=EPOCH, joined=0, head=9, lost=[(1, 2), (6, 9)]))
    with path.open("rb") as file:
        found = {
            row.channel.topic: row
            for row in make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages()
        }
    assert found.keys() == {"/stereo/meta", "/stereo/left/image", "/stereo/right/image", "/stereo/receipt"}
    row = found["/stereo/meta"]
    assert row.schema is not None
    assert (row.channel.message_encoding, row.schema.name) == ("protobuf", "babyagent.Header")
    header = row.decoded_message
    assert (header.device, header.seq, header.left_ns) == ("baby", 5, made(5).header.left_ns)
    assert "version" not in header.DESCRIPTOR.fields_by_name  # a recording outlives the wire's
    assert list(found["/stereo/receipt"].decoded_message.lost) == [1, 2, 6, 9]


@given(
    st.fixed_dictionaries(
        {
            "seq": st.integers(0, (1 << 63) - 2),
            "left_ns": st.integers(0, (1 << 63) - 1),
            "clock_offset_ns": st.integers(-(1 << 63), (1 << 63) - 1),
            "clock_error_ns": st.none() | st.integers(0, (1 << 63) - 1),
            "suppressed": st.integers(0, 1 << 40),
        }
    )
)
def test_any_header_comes_back_also_from_the_json_of_earlier_versions(changed: dict[str, Any]) -> None:
    header = msgspec.structs.replace(made(5).header, **changed)
    assert read_header(memoryview(header_data(header))) == header
    values = {name: value for name, value in msgspec.structs.asdict(header).items() if value is not None}
    values.pop("version")
    assert read_header(memoryview(msgspec.json.encode(values))) == header


def test_a_header_with_a_number_that_no_clock_has_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="clock_offset_ns"):
        header_data(msgspec.structs.replace(made(5).header, clock_offset_ns=1 << 63))


def test_every_chunk_stands_alone(small: tuple[bytes, list[int]]) -> None:
    data, ends = small
    chunks = [data[begin:end] for begin, end in pairwise([_first_chunk(data), *ends])]
    found = [read_pairs(MAGIC + chunk) for chunk in chunks]
    assert found == [MIXED[:3], MIXED[3:6], MIXED[6:]]


def test_a_chunk_takes_about_a_mebibyte_and_only_pixels_are_compressed(tmp_path: Path) -> None:
    pairs = [made(seq, shape=(160, 200, 3)) for seq in range(60)] + [made(60, "lz4")]
    path = recorded(tmp_path / "walk.mcap", pairs)
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    *full, last = summary.chunk_indexes
    assert len(full) >= 2
    assert all(1 << 20 <= chunk.uncompressed_size < (1 << 20) + 200_000 for chunk in full)
    assert [chunk.compression for chunk in full] == [""] * len(full)
    assert last.compression == "lz4"


def test_a_message_that_would_make_a_chunk_too_large_begins_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.recording.mcap_writer.MAX_CHUNK_BYTES", 6_000)
    pairs = some(6, "lz4")  # an eye has 2304 bytes: no pair fits with its definitions
    path = recorded(tmp_path / "walk.mcap", pairs)
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    assert all(chunk.uncompressed_size <= 6_000 for chunk in summary.chunk_indexes)
    assert read_pairs(path.read_bytes()) == pairs


def test_a_recording_is_never_written_over(tmp_path: Path) -> None:
    path = recorded(tmp_path / "walk.mcap", some(2))
    with pytest.raises(FileExistsError):
        RecordingWriter(path)
    assert read_pairs(path.read_bytes()) == some(2)


def test_a_pair_that_does_not_decode_is_refused_and_the_others_are_recorded(tmp_path: Path) -> None:
    good = made(0, "lz4")
    bad = EncodedPair(good.header, good.left[:-1], good.right)
    with RecordingWriter(tmp_path / "walk.mcap") as writer:
        writer.write(good)
        with pytest.raises(MalformedMessage):
            writer.write(bad)
        writer.write(made(1, "lz4"))
    assert read_pairs((tmp_path / "walk.mcap").read_bytes()) == [good, made(1, "lz4")]


def test_what_was_synced_survives_the_kill_of_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "walk.mcap"
    script = (
        "import sys; from pathlib import Path; from stream.recording.writer import RecordingWriter\nfrom recorded import made\n"
        "writer = RecordingWriter(Path(sys.argv[1]))\n"
        "for seq in range(100000):\n"
        "    writer.write(made(seq))\n"
        "    if seq % 5 == 4: writer.sync(); print(seq + 1, flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        synced = [int(process.stdout.readline()) for _ in range(7)][-1]
        process.kill()
    assert process.returncode == -signal.SIGKILL
    reader, pairs = reader_of(path.read_bytes())
    assert reader.messages.cut
    assert len(pairs) >= synced
    assert pairs == [made(seq) for seq in range(len(pairs))]


def test_without_room_the_file_keeps_its_whole_chunks_and_can_still_be_ended(tmp_path: Path) -> None:
    path = tmp_path / "walk.mcap"
    script = (
        "import resource, sys; from pathlib import Path; from stream.recording.writer import RecordingWriter\n"
        "from recorded import made\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "writer = RecordingWriter(Path(sys.argv[1]))\n"
        "try:\n"
        "    for seq in range(1000):\n"
        "        writer.write(made(seq))\n"
        "        if seq % 5 == 4: writer.sync()\n"
        "except OSError as error: print(error.strerror)\n"
        "writer.close(); print(writer.pairs)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    told = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout.split("\n")
    reader, pairs = reader_of(path.read_bytes())
    assert told[0] == os.strerror(errno.EFBIG)
    assert (reader.messages.cut, reader.messages.skipped) == (False, 0)
    assert pairs == some(int(told[1]))
    assert len(pairs) >= 5


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
    inputs = [MAGIC + bomb + small[0][_first_chunk(small[0]) :] for bomb in bombs]
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
        file.write(small[0][_first_chunk(small[0]) :])
    tracemalloc.start()
    with open_recording(path) as reader:
        pairs = list(reader)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pairs == MIXED
    assert (reader.messages.skipped, reader.messages.skipped_bytes) == (1, 9 + len(head) + size)
    assert peak_bytes < 2 << 20


def test_a_sync_comes_after_everything_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "walk.mcap"
    synced: list[list[EncodedPair]] = []
    monkeypatch.setattr(os, "fdatasync", lambda _: synced.append(read_pairs(path.read_bytes())))
    with RecordingWriter(path) as writer:
        writer.write(made(0))
        writer.sync()
        writer.write(made(1))
        writer.sync()
    assert synced == [some(1), some(2)]


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


@pytest.mark.parametrize("content", [b"not a recording", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000)])
def test_another_kind_of_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "walk.mcap"
    path.write_bytes(content)
    with pytest.raises(StreamError, match=r"^\S*walk.mcap: it is not an MCAP file$"):
        RecordingSource([path])


def test_a_file_that_cannot_be_read_is_refused_before_the_first_pair(tmp_path: Path) -> None:
    path = recorded(tmp_path / "walk.mcap", some(1))
    for other in (tmp_path / "none.mcap", tmp_path):
        with pytest.raises(StreamError, match=other.name):
            RecordingSource([path, other])


def test_an_empty_recording_has_no_pairs_which_is_an_error(tmp_path: Path) -> None:
    path = recorded(tmp_path / "walk.mcap", [])
    reader, pairs = reader_of(path.read_bytes())
    assert (pairs, reader.messages.cut) == ([], False)
    with pytest.raises(StreamError, match=r"walk\.mcap: there is no message in it"):
        RecordingSource([path]).receive(1, 0.0)


def test_recordings_are_given_one_after_the_other_and_no_pair_twice(tmp_path: Path) -> None:
    first = recorded(tmp_path / "walk.mcap", some(6))
    second = recorded(tmp_path / "walk-2.mcap", some(10)[4:] + some(3, epoch=NEXT_EPOCH))
    assert to_its_end(RecordingSource([first, second, first])) == some(10) + some(3, epoch=NEXT_EPOCH)


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_as_a_source_it_gives_at_most_what_is_asked_and_stays_ended(tmp_path: Path, limit: int) -> None:
    path = recorded(tmp_path / "walk.mcap", some(7))
    source = RecordingSource([path])
    counts = []
    for expected in [some(7)[begin : begin + limit] for begin in range(0, 7, limit)]:
        assert source.receive(limit, 0.0) == expected
        counts.append(len(expected))
    assert sum(counts) == 7
    assert source.backlog() == 0
    for _ in range(2):
        with pytest.raises(EndOfStream):
            source.receive(1, 0.0)


def test_a_source_closed_before_its_end_gives_no_more(tmp_path: Path) -> None:
    source = RecordingSource([recorded(tmp_path / "walk.mcap", some(7))])
    assert source.receive(2, 0.0) == some(2)
    source.close()
    source.close()
    with pytest.raises(EndOfStream):
        source.receive(1, 0.0)


def test_a_source_goes_on_behind_the_cursor_of_another(tmp_path: Path) -> None:
    pairs = [pair for seq in range(9) for pair in (made(seq), made(seq, device="toddler"))]
    files = [recorded(tmp_path / "a.mcap", pairs[:7]), recorded(tmp_path / "b.mcap", pairs[7:])]
    for count in range(len(pairs) + 1):
        source = RecordingSource(files)
        before = [source.receive(1, 0.0)[0] for _ in range(count)]
        cursor = json.loads(json.dumps(source.cursor()))
        source.acknowledge(cursor)
        after = to_its_end(RecordingSource(files, cursor=cursor))
        assert before + after == pairs


def test_a_cursor_does_not_name_what_was_only_looked_at(tmp_path: Path) -> None:
    now_s = [0.0]
    path = recorded(tmp_path / "walk.mcap", some(3))
    source = RecordingSource([path], speed=1.0, clock=lambda: now_s[0], sleep=lambda _: None)
    assert source.receive(3, 0.0) == some(1)
    assert to_its_end(RecordingSource([path], cursor=source.cursor())) == some(3)[1:]


@pytest.mark.parametrize("cursor", [{}, {"given": 3}, {"devices": {"baby": {EPOCH: [[0, -1]]}}}, {"devices": [1]}])
def test_a_cursor_of_something_else_is_refused(tmp_path: Path, cursor: dict[str, object]) -> None:
    path = recorded(tmp_path / "walk.mcap", some(1))
    with pytest.raises(ValueError, match="cursor"):
        RecordingSource([path], cursor=cursor)


class FakeTime:
    """A clock that only sleep moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


def due_times(path: Path, speed: float) -> list[float]:
    """When each pair is given, from the first one on."""
    time = FakeTime()
    source = RecordingSource([path], speed=speed, clock=time.clock, sleep=time.sleep)
    times: list[float] = []
    try:
        while True:
            pairs = source.receive(5, 0.25)
            times += [time.now_s] * len(pairs)
    except EndOfStream:
        return [round(at - times[0], 6) for at in times]


@pytest.mark.parametrize("speed", [0.5, 1.0, 10.0])
def test_pairs_come_at_the_pace_of_their_capture(tmp_path: Path, speed: float) -> None:
    path = recorded(tmp_path / "walk.mcap", [made(seq, step_ns=10**9) for seq in (0, 1, 2, 6, 7)])
    assert due_times(path, speed) == [round(second / speed, 6) for second in (0, 1, 2, 6, 7)]


def test_long_pauses_clocks_that_jump_and_the_time_between_epochs_are_left_out(tmp_path: Path) -> None:
    pause = int(MAX_PAUSE_S) + 1
    seconds = [(0, EPOCH), (1, EPOCH), (1 + pause, EPOCH), (2 + pause, EPOCH), (5, EPOCH), (6, EPOCH), (0, NEXT_EPOCH)]
    pairs = []
    for number, (second, epoch) in enumerate(seconds):
        pair = made(second, epoch=epoch, step_ns=10**9)
        pairs.append(EncodedPair(msgspec.structs.replace(pair.header, seq=number), pair.left, pair.right))
    assert due_times(recorded(tmp_path / "walk.mcap", pairs), 1.0) == [0, 1, 1, 2, 2, 3, 3]


def test_a_paced_receive_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    path = recorded(tmp_path / "walk.mcap", [made(seq, step_ns=10**9) for seq in range(2)])
    time = FakeTime()
    source = RecordingSource([path], speed=1.0, clock=time.clock, sleep=time.sleep)
    assert len(source.receive(5, 0.0)) == 1
    assert source.receive(5, 0.4) == []
    assert time.now_s == pytest.approx(100.4)
    assert len(source.receive(5, 10.0)) == 1
    assert time.now_s == pytest.approx(101.0)


@pytest.mark.parametrize("speed", [-1.0, float("inf"), float("nan")])
def test_a_speed_that_is_none_is_refused(tmp_path: Path, speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        RecordingSource([recorded(tmp_path / "walk.mcap", some(1))], speed=speed)


class Foreign:
    """A recording by another tool: only the public writer and Foxglove's schemas."""

    def __init__(self, **options: object) -> None:
        self.file = io.BytesIO()
        self.writer = Writer(self.file, **options)  # type: ignore[arg-type]
        self.writer.start()
        self.schemas: dict[str, int] = {}
        self.channels: dict[str, int] = {}

    def add(self, topic: str, message: CompressedImage | RawImage, log_ns: int) -> None:
        name = type(message).DESCRIPTOR.full_name
        if name not in self.schemas:
            self.schemas[name] = register_schema(self.writer, type(message))
        if topic not in self.channels:
            self.channels[topic] = self.writer.register_channel(topic, "protobuf", self.schemas[name])
        self.writer.add_message(self.channels[topic], log_ns, message.SerializeToString(), log_ns)

    def jpeg(
        self,
        topic: str,
        captured_ns: int,
        *,
        number: int = 0,
        kind: str = "jpeg",
        size: int = 16,
        data: bytes | None = None,
    ) -> bytes:
        image = np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8)
        data = data or cv2.imencode(".jpg", image)[1].tobytes()
        message = CompressedImage(data=data, format=kind, frame_id="camera")
        message.timestamp.FromNanoseconds(captured_ns)
        self.add(topic, message, captured_ns + 3_000_000)
        return data

    def end(self) -> bytes:
        self.writer.finish()  # type: ignore[no-untyped-call]
        return self.file.getvalue()

    def at(self, path: Path) -> Path:
        path.write_bytes(self.end())
        return path


@pytest.mark.parametrize(
    "options",
    [
        {"compression": CompressionType.NONE},
        {"compression": CompressionType.LZ4, "chunk_size": 3000},
        {"compression": CompressionType.ZSTD},
        {"use_chunking": False},
        {"enable_crcs": False, "use_statistics": False, "repeat_channels": False, "repeat_schemas": False},
    ],
)
def test_a_recording_of_another_tool_replays(tmp_path: Path, options: dict[str, object]) -> None:
    foreign = Foreign(**options)
    images = []
    for number in range(10):
        left = foreign.jpeg("/camera_left/compressed", START_NS + number * 10**8, number=2 * number)
        right = foreign.jpeg("/camera_right/compressed", START_NS + number * 10**8 + 900_000, number=2 * number + 1)
        images.append((left, right))
    path = foreign.at(tmp_path / "some day.mcap")
    pairs = to_its_end(RecordingSource([path]))
    assert [(pair.left, pair.right) for pair in pairs] == images
    headers = [pair.header for pair in pairs]
    assert {(header.device, header.codec, header.height) for header in headers} == {("some-day", "jpeg", 16)}
    assert [header.seq for header in headers] == list(range(10))
    assert [(header.left_ns, header.skew_ns) for header in headers] == [
        (START_NS + number * 10**8, 900_000) for number in range(10)
    ]
    assert [from_parts(to_parts(pair)) for pair in pairs] == pairs


def test_its_identities_are_the_same_each_time_and_others_for_another_recording(tmp_path: Path) -> None:
    epochs = []
    for number in (1, 1, 2):
        foreign = Foreign()
        foreign.jpeg("/left", START_NS, number=number)
        foreign.jpeg("/right", START_NS)
        epochs.append([pair.header.epoch for pair in to_its_end(RecordingSource([foreign.at(tmp_path / "day.mcap")]))])
    assert epochs[0] == epochs[1] != epochs[2]


def test_images_are_paired_by_the_nearest_time_and_those_without_a_partner_counted(tmp_path: Path) -> None:
    foreign = Foreign()
    ms = 1_000_000
    for at in (0, 100, 200, 300, 400, 500):
        foreign.jpeg("/left", START_NS + at * ms, number=at)
    for at in (2, 99, 112, 215, 330, 396, 404, 485):
        foreign.jpeg("/right", START_NS + at * ms, number=at)
    reader, pairs = reader_of(foreign.end())
    found = [((pair.header.left_ns - START_NS) // ms, (pair.header.right_ns - START_NS) // ms) for pair in pairs]
    assert found == [(0, 2), (100, 99), (200, 215), (300, 330), (400, 396), (500, 485)]
    assert sum(reader.unpaired.counts.values()) == 2


def test_topics_that_do_not_say_which_eye_they_are_have_to_be_named(tmp_path: Path) -> None:
    foreign = Foreign()
    for number in range(3):
        foreign.jpeg("/cam0", START_NS + number * 10**8, number=number)
        foreign.jpeg("/cam1", START_NS + number * 10**8, number=10 + number)
    path = foreign.at(tmp_path / "day.mcap")
    with pytest.raises(StreamError, match=r"--left TOPIC --right TOPIC.*/cam0, /cam1"):
        to_its_end(RecordingSource([path]))
    for eyes in (EyeTopics("/cam0", "/cam1"), EyeTopics("/cam1", "/cam0")):
        pairs = to_its_end(RecordingSource([path], topics=eyes))
        assert len(pairs) == 3
        swapped = eyes.left == "/cam1"
        expected = np.random.default_rng(10 if swapped else 0).integers(0, 256, (16, 16, 3), np.uint8)
        assert pairs[0].left == cv2.imencode(".jpg", expected)[1].tobytes()


def test_two_topics_for_one_eye_have_to_be_chosen_from(tmp_path: Path) -> None:
    foreign = Foreign()
    for topic in ("/left/full", "/left/thumbnail", "/right/full"):
        foreign.jpeg(topic, START_NS)
    path = foreign.at(tmp_path / "day.mcap")
    with pytest.raises(StreamError, match="--left"):
        to_its_end(RecordingSource([path]))
    assert len(to_its_end(RecordingSource([path], topics=EyeTopics(left="/left/full")))) == 1


def test_a_file_that_cannot_be_read_on_gives_its_pairs_first(tmp_path: Path) -> None:
    foreign = Foreign()
    foreign.jpeg("/left/full", START_NS)
    foreign.jpeg("/right/full", START_NS)
    foreign.jpeg("/left/thumbnail", START_NS + 10**9)
    source = RecordingSource([foreign.at(tmp_path / "day.mcap")])
    assert len(source.receive(5, 0.0)) == 1
    for _ in range(2):
        with pytest.raises(StreamError, match="--left"):
            source.receive(5, 0.0)


def test_images_of_other_formats_and_sizes_are_left_out_and_counted(tmp_path: Path) -> None:
    foreign = Foreign()
    for number in range(6):
        at = START_NS + number * 10**8
        foreign.jpeg(
            "/left", at, number=number, kind="webp" if number == 1 else "JPEG", data=b"RIFF" if number == 1 else None
        )
        foreign.jpeg("/right", at, number=number, size=24 if number == 3 else 16)
    reader, pairs = reader_of(foreign.end())
    assert [(pair.header.left_ns - START_NS) // 10**8 for pair in pairs] == [0, 2, 4, 5]
    assert [pair.header.seq for pair in pairs] == [0, 1, 2, 3]
    assert (reader.unreadable, reader.unpaired.describe()) == (2, "right 1 (0.100 s)")


@pytest.mark.parametrize(("encoding", "channels"), [("bgr8", 3), ("rgb8", 3), ("mono8", 1), ("8UC3", 3), ("8UC1", 1)])
def test_raw_images_of_another_tool_keep_their_pixels(encoding: str, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 10, channels), np.uint8)
    foreign = Foreign()
    for topic, image in zip(("/left", "/right"), images, strict=True):
        rows = np.pad(image.reshape(6, -1), ((0, 0), (0, 5)))  # rows may be padded
        step = rows.shape[1]
        foreign.add(topic, RawImage(width=10, height=6, step=step, encoding=encoding, data=rows.tobytes()), START_NS)
    [pair] = read_pairs(foreign.end())
    shown = decode(pair)
    for image, got in zip(images, (shown.left, shown.right), strict=True):
        expected = image[..., ::-1] if encoding == "rgb8" else image
        assert np.array_equal(got, expected if channels == 3 else expected[..., 0])
    assert pair.header.left_ns == START_NS  # the log time, where the message has none


def test_raw_images_that_lie_about_their_size_are_left_out() -> None:
    foreign = Foreign()
    good: dict[str, Any] = {"width": 4, "height": 3, "step": 4, "encoding": "mono8", "data": bytes(12)}
    lies: list[dict[str, Any]] = [
        {"height": 4},
        {"step": 3},
        {"width": 1 << 30, "step": 1 << 30},
        {"encoding": "32FC1"},
        {"height": 0, "data": b""},
    ]
    for number, lie in enumerate([{}, *lies]):
        for topic in ("/left", "/right"):
            foreign.add(topic, RawImage(**(good | lie)), START_NS + number * 10**9)
    reader, pairs = reader_of(foreign.end())
    assert len(pairs) == 1
    assert reader.unreadable == 2 * len(lies)


def test_topics_without_images_are_passed_over() -> None:
    foreign = Foreign()
    channel = foreign.writer.register_channel("/left/imu", "json", 0)
    foreign.writer.add_message(channel, START_NS, b"{}", START_NS)
    foreign.jpeg("/left/image", START_NS)
    foreign.jpeg("/right/image", START_NS)
    assert len(read_pairs(foreign.end())) == 1


def test_a_damaged_first_chunk_of_another_tool_costs_no_more_than_that_chunk() -> None:
    """Its topics are declared there only, and once more in the index."""
    foreign = Foreign(compression=CompressionType.NONE, chunk_size=2000)
    for number in range(12):
        foreign.jpeg("/left", START_NS + number * 10**8, number=number)
        foreign.jpeg("/right", START_NS + number * 10**8, number=number)
    data = bytearray(foreign.end())
    data[_first_chunk(bytes(data)) + 200] ^= 1
    reader, pairs = reader_of(bytes(data))
    assert reader.messages.skipped == 1
    assert len(pairs) >= 10


def _first_chunk(data: bytes) -> int:
    """Where the first chunk of an undamaged file begins."""
    length: int = struct.unpack_from("<Q", data, len(MAGIC) + 1)[0]
    return len(MAGIC) + 9 + length


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
