"""Recordings: what is written is read, by us and by other tools, and what was synced survives its writer."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory
from recorded import EPOCH, NEXT_EPOCH, made, read_pairs, reader_of, recorded, some, to_its_end

from stream.codec import decode, encode_pair
from stream.errors import MalformedMessage
from stream.pair import Codec, EncodedPair
from stream.recording.payload import header_data, read_header
from stream.recording.receipts import Receipt
from stream.recording.source import RecordingSource
from stream.recording.writer import RecordingWriter

ROOT = Path(__file__).parents[1]

ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}


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
    assert read_header(memoryview(header_data(header))).header == header
    values = {name: value for name, value in msgspec.structs.asdict(header).items() if value is not None}
    values.pop("version")
    assert read_header(memoryview(msgspec.json.encode(values))).header == header


def test_a_header_with_a_number_that_no_clock_has_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="clock_offset_ns"):
        header_data(msgspec.structs.replace(made(5).header, clock_offset_ns=1 << 63))


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
