"""Recordings of other tools become pairs of one moment, whatever their container, encoding and times are."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from foreign import (
    BAGS,
    EYES,
    FRAME_NS,
    MS,
    BagKind,
    bag,
    flatbuffer_mcap,
    in_pairs,
    jpeg,
    json_mcap,
    painted,
    read,
    stamp,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import START_NS

from stream.__main__ import PROGRAM
from stream.codec import decode
from stream.errors import StreamError
from stream.host.program import Stop
from stream.pair import EncodedPair
from stream.recording.foreign import EyeTopics
from stream.recording.mcap_reader import McapReader
from stream.recording.messages import read_image
from stream.recording.pixels import Compressed, Pixels
from stream.recording.reader import open_recording
from stream.recording.source import RecordingSource


def times(pairs: list[EncodedPair]) -> list[tuple[int, int]]:
    """The times of the eyes in milliseconds since START_NS."""
    return [((one.header.left_ns - START_NS) // MS, (one.header.right_ns - START_NS) // MS) for one in pairs]


def compressed(events: list[tuple[str, int, int, int]]) -> bytes:
    """A recording of JPEGs: topic, log time, stamp, number."""
    messages = [
        (topic, log_ns, {"timestamp": stamp(stamp_ns), "format": "jpeg", "data": jpeg(number)})
        for topic, log_ns, stamp_ns, number in events
    ]
    return json_mcap(messages)


@pytest.mark.parametrize("kind", BAGS)
def test_bags_of_ros_come_back_with_their_bytes_and_stamps(tmp_path: Path, kind: BagKind) -> None:
    path = tmp_path / ("walk.bag" if kind.startswith("ros1") else "walk")
    with bag(path, kind) as written:
        in_pairs(
            lambda eye, at, number: written.image(f"/stereo/{eye}/image_raw/compressed", at + 5 * MS, at, jpeg(number)),
            6,
        )
    with open_recording(path) as reader:
        pairs = list(reader)
    assert reader.damage() == []
    assert [(one.left, one.right) for one in pairs] == [(jpeg(2 * n), jpeg(2 * n + 1)) for n in range(6)]
    assert times(pairs) == [(100 * n, 100 * n + 2) for n in range(6)]
    assert {one.header.device for one in pairs} == {"walk"}


@pytest.mark.parametrize("kind", ["db3", "mcap", "ros1"])
def test_raw_images_of_ros_keep_their_pixels(tmp_path: Path, kind: BagKind) -> None:
    path = tmp_path / ("walk.bag" if kind == "ros1" else "walk")
    with bag(path, kind) as written:
        for eye, image in zip(EYES, (painted(1), painted(2)), strict=True):
            fields = {"height": 48, "width": 64, "encoding": "rgb8", "step": 192, "data": image.reshape(-1)}
            written.image(f"/{eye}/image_raw", START_NS, START_NS, fields)
    with open_recording(path) as reader:
        [pair] = reader
    assert np.array_equal(decode(pair).left, painted(1)[..., ::-1])
    assert np.array_equal(decode(pair).right, painted(2)[..., ::-1])


def test_json_images_of_foxglove_come_back() -> None:
    messages: list[tuple[str, int, dict[str, Any]]] = []
    in_pairs(
        lambda eye, at, number: messages.append(
            (eye, at, {"timestamp": stamp(at), "format": "jpeg", "data": jpeg(number)})
        ),
        3,
    )
    _, pairs = read(json_mcap(messages))
    assert [(one.left, one.right) for one in pairs] == [(jpeg(2 * n), jpeg(2 * n + 1)) for n in range(3)]
    raw = {"width": 64, "height": 48, "encoding": "mono8", "step": 64, "data": painted(3, 1).tobytes()}
    raw["timestamp"] = "2023-11-14T22:13:20.5Z"
    [pair] = read(json_mcap([(eye, START_NS, raw) for eye in EYES], "foxglove.RawImage"))[1]
    assert np.array_equal(decode(pair).left, painted(3, 1)[..., 0])
    assert pair.header.left_ns == START_NS + 500 * MS


def test_flatbuffers_of_foxglove_come_back() -> None:
    images: list[tuple[str, int, dict[int, Any]]] = []
    in_pairs(lambda eye, at, number: images.append((f"/{eye}", at, {0: at, 1: "eye", 2: jpeg(number), 3: "jpeg"})), 3)
    _, pairs = read(flatbuffer_mcap(images, "foxglove.CompressedImage", 4))
    assert [(one.left, one.right) for one in pairs] == [(jpeg(2 * n), jpeg(2 * n + 1)) for n in range(3)]
    assert times(pairs) == [(100 * n, 100 * n + 2) for n in range(3)]
    fields = {0: START_NS, 2: 64, 3: 48, 4: "mono8", 5: 64, 6: painted(3, 1).tobytes()}
    _, [pair] = read(flatbuffer_mcap([(eye, START_NS, fields) for eye in EYES], "foxglove.RawImage", 7))
    assert np.array_equal(decode(pair).left, painted(3, 1)[..., 0])


@given(st.data())
@settings(max_examples=100)
def test_a_damaged_flatbuffer_is_an_image_or_one_clear_error(data: st.DataObject) -> None:
    fields = {0: START_NS, 2: 64, 3: 48, 4: "mono8", 5: 64, 6: bytes(64 * 48)}
    file = flatbuffer_mcap([("/left", START_NS, fields)], "foxglove.RawImage", 7)
    [message] = McapReader(io.BytesIO(file))
    spoiled = bytearray(message.data)
    for _ in range(data.draw(st.integers(1, 4))):
        spoiled[data.draw(st.integers(0, 120))] ^= data.draw(st.integers(1, 255))
    cut = memoryview(spoiled)[: data.draw(st.integers(0, len(spoiled)))]
    with contextlib.suppress(ValueError):
        Pixels().read(read_image(message._replace(data=cut)).content)


def test_with_zero_stamps_a_lost_frame_moves_no_later_pair() -> None:
    events = [
        (eye, START_NS + n * FRAME_NS + odd * 3 * MS, 0, 2 * n + odd)
        for n in range(12)
        for odd, eye in enumerate(EYES)
        if (eye, n) != ("right", 3)
    ]
    reader, pairs = read(compressed(events))
    assert times(pairs) == [(100 * n, 100 * n + 3) for n in range(12) if n != 3]
    assert reader.unpaired.describe() == "left 1 (0.300 s)"


@pytest.mark.parametrize(
    ("left_stamp", "right_stamp"),
    [
        (lambda at: at, lambda at: 0),  # one eye has none
        (lambda at: 7, lambda at: 7),  # the driver never sets them
        (lambda at: at, lambda at: at - START_NS + 1),  # two clocks: one counts from its start
    ],
)
def test_stamps_that_are_not_real_on_both_sides_give_way_to_log_times(left_stamp: Any, right_stamp: Any) -> None:
    events = []
    for n in range(10):
        at = START_NS + n * FRAME_NS
        events.append(("left", at, left_stamp(at), n))
        if n != 4:
            events.append(("right", at + 1 * MS, right_stamp(at + 1 * MS), n))
    _, pairs = read(compressed(events))
    assert times(pairs) == [(100 * n, 100 * n + 1) for n in range(10) if n != 4]


def test_real_stamps_count_more_than_log_times() -> None:
    """The right images were logged a frame later."""
    events = [("left", START_NS + n * FRAME_NS, START_NS + n * FRAME_NS, n) for n in range(8)]
    events += [("right", START_NS + (n + 1) * FRAME_NS, START_NS + n * FRAME_NS, n) for n in range(8)]
    _, pairs = read(compressed(sorted(events, key=lambda event: event[1])))
    assert times(pairs) == [(100 * n, 100 * n) for n in range(8)]


def test_eyes_that_lie_one_after_the_other_in_the_file_are_paired() -> None:
    at = [START_NS + n * FRAME_NS for n in range(150)]
    reader, pairs = read(compressed([(eye, ns, ns, 1) for eye in EYES for ns in at]))
    assert [(one.header.left_ns, one.header.right_ns) for one in pairs] == [(ns, ns) for ns in at]
    assert not reader.unpaired.describe()


def test_one_image_without_a_stamp_is_left_out_and_counted() -> None:
    events = []
    for n in range(10):
        at = START_NS + n * FRAME_NS
        events += [("left", at, 0 if n == 6 else at, n), ("right", at, at, n)]
    reader, pairs = read(compressed(events))
    assert times(pairs) == [(100 * n, 100 * n) for n in range(10) if n != 6]
    assert reader.unpaired.counts == {"left": 1, "right": 1}


def test_images_without_any_time_are_refused_and_never_paired_by_position() -> None:
    with pytest.raises(StreamError, match="day: neither its header stamps nor its log times"):
        read(compressed([(eye, 0, 0, n) for n in range(6) for eye in EYES]))


def test_cameras_that_run_freely_are_paired_and_a_tolerance_can_be_set() -> None:
    events = [
        (eye, START_NS + n * FRAME_NS + odd * 30 * MS, START_NS + n * FRAME_NS + odd * 30 * MS, n)
        for n in range(8)
        for odd, eye in enumerate(EYES)
    ]
    assert times(read(compressed(events))[1]) == [(100 * n, 100 * n + 30) for n in range(8)]
    assert len(read(compressed(events), EyeTopics(tolerance_ms=30))[1]) == 8
    reader, pairs = read(compressed(events), EyeTopics(tolerance_ms=29))
    assert pairs == []
    assert "--tolerance-ms" in reader.why_empty()


@pytest.mark.parametrize(("layout", "axis"), [("sbs", 1), ("tb", 0)])
def test_one_topic_with_both_eyes_is_split(layout: str, axis: int) -> None:
    both = np.concatenate([painted(1), painted(2)], axis=axis)
    raw = {"width": both.shape[1], "height": both.shape[0], "encoding": "bgr8", "data": both.tobytes()}
    messages = [("/stereo/image", START_NS + n * FRAME_NS, raw) for n in range(3)]
    data = json_mcap(messages, "foxglove.RawImage")
    with pytest.raises(StreamError, match=r"say --sbs /stereo/image .* or --tb /stereo/image"):
        read(data)
    _, pairs = read(data, EyeTopics(sbs="/stereo/image") if layout == "sbs" else EyeTopics(tb="/stereo/image"))
    assert times(pairs) == [(100 * n, 100 * n) for n in range(3)]
    assert np.array_equal(decode(pairs[0]).left, painted(1))
    assert np.array_equal(decode(pairs[0]).right, painted(2))
    file = cv2.imencode(".jpg", both)[1].tobytes()
    [pair] = read(
        json_mcap([("/both", START_NS, {"data": file})]),
        EyeTopics(sbs="/both") if layout == "sbs" else EyeTopics(tb="/both"),
    )[1]
    assert np.abs(decode(pair).right.astype(int) - painted(2)).mean() < 4


def test_one_topic_with_both_eyes_excludes_two_topics() -> None:
    with pytest.raises(ValueError, match="--sbs and --tb"):
        EyeTopics(left="/a", sbs="/b")


def test_a_bag_whose_writer_was_killed_is_named_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "walk.bag"
    with bag(path, "ros1") as written:
        in_pairs(lambda eye, at, number: written.image(f"/{eye}", at, at, jpeg(number)), 3)
    data = path.read_bytes()
    head = b"#ROSBAG V2.0\n"
    size = int.from_bytes(data[len(head) : len(head) + 4], "little")
    place = data.index(b"index_pos=", len(head), len(head) + size) + 10
    path.write_bytes(data[:place] + bytes(8) + data[place + 8 : -600])
    with pytest.raises(StreamError, match=r"rosbag reindex"), open_recording(path) as reader:
        list(reader)


def test_a_png_or_webp_that_declares_more_than_it_can_hold_is_not_decoded() -> None:
    for word, image, at in ((".png", painted(1), 16), (".webp", painted(1), 0)):
        file = bytearray(cv2.imencode(word, image, [cv2.IMWRITE_WEBP_QUALITY, 80])[1])
        if at:
            file[16:24] = (8000).to_bytes(4, "big") * 2
        else:
            file[26:30] = (8000).to_bytes(2, "little") * 2
        with pytest.raises(ValueError, match="too few for an image of 8000x8000"):
            Pixels().read(Compressed("", memoryview(bytes(file))))


@pytest.mark.parametrize(
    ("schema", "encoding", "said"),
    [
        (
            "foxglove.CompressedVideo",
            "protobuf",
            r"films, which are not read: .*/left \(foxglove.CompressedVideo\).*video:",
        ),
        (
            "sensor_msgs/msg/Imu",
            "cdr",
            r"no topic of it holds images that are read .*/left \(sensor_msgs/msg/Imu, cdr\)",
        ),
        ("foxglove.CompressedImage", "thrift", r"/left \(foxglove.CompressedImage, thrift\)"),
    ],
)
def test_a_recording_without_a_pair_is_an_error_that_names_topic_and_schema_everywhere(
    tmp_path: Path, schema: str, encoding: str, said: str
) -> None:
    path = tmp_path / "day.mcap"
    path.write_bytes(json_mcap([(f"/{eye}", START_NS, {"data": b"x"}) for eye in EYES], schema, encoding))
    told = PROGRAM.run(["info", str(path)], Stop())
    assert told.code == 1
    assert re.search(said, told.text)
    assert "whole" not in told.text
    for words in (
        ["replay", str(path), "--bind", "tcp://127.0.0.1:*"],
        ["recover", str(path), str(tmp_path / "out.mcap")],
    ):
        with pytest.raises((StreamError, OSError), match=said):
            PROGRAM.run(words, Stop())
    with pytest.raises(StreamError, match=said):
        RecordingSource([path]).receive(1, 0.0)
    assert not (tmp_path / "out.mcap").exists()


def test_an_unread_format_is_named_and_recover_is_not_advised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "day.mcap"
    path.write_bytes(json_mcap([(f"/{eye}", START_NS, {"format": "h264", "data": b"\0\0\1"}) for eye in EYES]))
    text = PROGRAM.run(["info", str(path)], Stop()).text
    assert "/left: an image of format 'h264' is not read; JPEG, PNG and WebP are" in text
    assert "recover" not in text + caplog.text


def test_topics_are_named_by_flags_where_a_recording_is_read(tmp_path: Path) -> None:
    path = tmp_path / "day.mcap"
    path.write_bytes(compressed([(f"/cam{odd}", START_NS + n * FRAME_NS, 0, n) for n in range(5) for odd in (0, 1)]))
    flags = ["--left", "/cam0", "--right", "/cam1", "--tolerance-ms", "10"]
    with pytest.raises(StreamError, match="--left /cam0 --right /cam1"):
        PROGRAM.run(["info", str(path)], Stop())
    [told] = json.loads(PROGRAM.run(["info", str(path), "--json", *flags], Stop()).text)
    assert told["pairs"] == 5
    PROGRAM.run(["recover", str(path), str(tmp_path / "out.mcap"), *flags], Stop())
    assert PROGRAM.run(["info", str(tmp_path / "out.mcap")], Stop()).text.startswith(
        f"{tmp_path / 'out.mcap'}: 5 pairs"
    )


def test_a_folder_that_is_no_bag_and_a_file_compressed_as_a_whole_are_told(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="no ROS 2 bag"):
        RecordingSource([tmp_path])
    packed = tmp_path / "day.mcap.zstd"
    packed.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    with pytest.raises(StreamError, match=r"zstd -d day\.mcap\.zstd"):
        RecordingSource([packed])
    os.mkfifo(tmp_path / "pipe.mcap")
    with pytest.raises(StreamError, match="it is no regular file: copy what it gives into one first"):
        RecordingSource([tmp_path / "pipe.mcap"])


@pytest.mark.parametrize("kind", ["db3", "ros1", "ros1-bz2"])
def test_a_cut_or_damaged_bag_ends_in_one_line_or_early(tmp_path: Path, kind: BagKind) -> None:
    path = tmp_path / ("walk.bag" if kind.startswith("ros1") else "walk")
    with bag(path, kind) as written:
        in_pairs(lambda eye, at, number: written.image(f"/{eye}", at, at, jpeg(number)), 12)
    file = path if path.is_file() else next(path.glob("*.db3"))
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    for number in range(30):
        spoiled = bytearray(data[: rng.integers(20, len(data))] if number % 2 else data)
        for at in rng.integers(0, len(spoiled), 20):
            spoiled[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(spoiled)
        said = ""
        try:
            with open_recording(file) as reader:
                assert len(list(reader)) <= 12
        except StreamError as error:
            said = str(error)
        assert "\n" not in said


def test_a_database_whose_rows_never_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "endless.db3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE topics(id INTEGER, name TEXT, type TEXT, serialization_format TEXT)")
        connection.execute(
            "CREATE VIEW messages AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
            "SELECT 1 AS topic_id, x AS timestamp, zeroblob(1000000) AS data FROM c"
        )
    connection.close()
    with pytest.raises(StreamError, match="it has no table messages"):
        RecordingSource([path])
