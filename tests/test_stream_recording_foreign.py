"""Recordings of other tools: which images are the eyes, and which of them are a pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from mcap.writer import CompressionType
from recorded import START_NS, Foreign, first_chunk, read_pairs, reader_of, to_its_end

from stream.codec import decode, from_parts, to_parts
from stream.errors import StreamError
from stream.recording.foreign import EyeTopics
from stream.recording.source import RecordingSource


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
    data[first_chunk(bytes(data)) + 200] ^= 1
    reader, pairs = reader_of(bytes(data))
    assert reader.messages.skipped == 1
    assert len(pairs) >= 10
