"""Signals in recordings: ours come back bit for bit and are drawn by other tools, and bags of ROS bring theirs."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from foreign import MS, Bag, BagKind, bag, jpeg, painted
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import Writer
from mcap_protobuf.decoder import DecoderFactory
from recorded import START_NS, read_pairs, reader_of, recorded
from signalled import PAIR_NS, paired, telemetry

from stream.__main__ import PROGRAM
from stream.codec import from_parts, to_parts
from stream.host.program import Stop
from stream.pair import Codec, EncodedPair
from stream.recording.reader import open_recording
from stream.recording.signals.rows import MAX_TOPICS
from stream.signals.signal import MAX_ROWS, Signal, Telemetry

S = 10**9
IMU = Signal([[0.0, -0.0, 9.81], [0.25, 0.1, 1e-310]], [PAIR_NS - 5 * MS, PAIR_NS], "m/s^2")


def walk(count: int = 5, codec: Codec = "lz4") -> list[EncodedPair]:
    """Pairs 100 ms apart, each with 20 rows of an IMU and a reward."""
    pairs = []
    for seq in range(count):
        at_ns = PAIR_NS + 100 * MS * seq
        times_ns = at_ns - 5 * MS * np.arange(19, -1, -1)
        values = np.random.default_rng(seq).normal(size=(20, 6))
        signals = {"imu": Signal(values, times_ns, "g"), "reward": Signal(float(seq), at_ns)}
        pairs.append(paired(Telemetry(signals, "one", "anna"), seq=seq, at_ns=at_ns, codec=codec))
    return pairs


# Our own


@settings(max_examples=40)
@given(st.lists(telemetry, min_size=1, max_size=5))
def test_signals_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, all_of_them: list[Telemetry]) -> None:
    path = tmp_path_factory.mktemp("signals") / "walk.mcap"
    pairs = [paired(one, seq=seq) for seq, one in enumerate(all_of_them)]
    reader, read = reader_of(recorded(path, pairs).read_bytes())
    assert read == pairs
    assert [to_parts(one) for one in read] == [to_parts(one) for one in pairs]
    assert reader.damage() == []


def test_the_public_tools_draw_each_row_at_its_time(tmp_path: Path) -> None:
    """PlotJuggler and Foxglove decode protobuf by the schema in the file, and draw `values[0]` over the log time."""
    pairs = walk(3)
    path = recorded(tmp_path / "walk.mcap", pairs)
    with path.open("rb") as file:
        rows = [
            (message.log_time, list(decoded.values), decoded.unit)
            for _, _, message, decoded in make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages(
                topics=["/signals/imu"]
            )
        ]
    imus = [pair.telemetry.signals["imu"] for pair in pairs]
    assert rows == [
        (time_ns, values, "g")
        for imu in imus
        for time_ns, values in zip(imu.times_ns.tolist(), imu.values.tolist(), strict=True)
    ]


def test_info_counts_the_rows_of_each_signal(tmp_path: Path) -> None:
    told = PROGRAM.run(["info", str(recorded(tmp_path / "walk.mcap", walk(3)))], Stop())
    assert "signals: imu 60 rows, reward 3 rows" in told.text


def test_each_rig_has_topics_of_its_own(tmp_path: Path) -> None:
    pairs = [paired(Telemetry({"imu": IMU}), seq=seq, device=device) for seq in range(2) for device in ("one", "two")]
    path = recorded(tmp_path / "walk.mcap", pairs)
    assert read_pairs(path.read_bytes()) == pairs
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    assert {one.topic for one in summary.channels.values()} >= {"/signals/imu", "/two/signals/imu"}


def test_a_recording_that_another_tool_has_sorted_by_time_gives_the_same_pairs(tmp_path: Path) -> None:
    pairs = walk()
    path = recorded(tmp_path / "walk.mcap", pairs)
    again = io.BytesIO()
    writer = Writer(again)
    writer.start()
    channels: dict[int, int] = {}
    with path.open("rb") as file:
        for schema, channel, message in make_reader(file).iter_messages(log_time_order=True):
            assert schema is not None
            if channel.id not in channels:
                number = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.id] = writer.register_channel(channel.topic, channel.message_encoding, number)
            writer.add_message(
                channels[channel.id], message.log_time, message.data, message.publish_time, message.sequence
            )
    writer.finish()  # type: ignore[no-untyped-call]
    reader, read = reader_of(again.getvalue())
    assert [one.telemetry for one in read] == [one.telemetry for one in pairs]
    assert reader.damage() == []


def test_recover_and_a_cut_keep_the_signals_of_whole_pairs(tmp_path: Path) -> None:
    pairs = walk(40)
    path = recorded(tmp_path / "walk.mcap", pairs)
    data = path.read_bytes()
    cut = tmp_path / "cut.mcap"
    for end in range(0, len(data), len(data) // 12):
        found = read_pairs(data[:end]) if end else []
        assert found == pairs[: len(found)]
    cut.write_bytes(data[:-100])
    PROGRAM.run(["recover", str(cut), str(tmp_path / "whole.mcap")], Stop())
    assert read_pairs((tmp_path / "whole.mcap").read_bytes()) == pairs


def test_a_pair_whose_rows_are_missing_is_given_and_counted(tmp_path: Path) -> None:
    pairs = walk(2, "jpeg")  # whose chunks are not compressed
    data = recorded(tmp_path / "walk.mcap", pairs).read_bytes()
    renamed = data.replace(b"/signals/reward", b"/ignored/reward")
    reader, read = reader_of(_without_checksums(renamed))
    assert [sorted(one.telemetry.signals) for one in read] == [["imu"], ["imu"]]
    assert [one.header for one in read] == [one.header for one in pairs]
    assert reader.unreadable == 2


def test_a_stream_whose_names_change_for_ever_takes_a_bounded_number_of_topics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    per_pair = 32
    pairs = [
        paired(Telemetry({f"n{seq * per_pair + n}": Signal(1.0, PAIR_NS) for n in range(per_pair)}), seq=seq)
        for seq in range(MAX_TOPICS // per_pair + 2)
    ]
    reader, read = reader_of(recorded(tmp_path / "walk.mcap", pairs).read_bytes())
    assert [one.header for one in read] == [one.header for one in pairs]
    assert read[:-2] == pairs[:-2]
    assert not any(one.telemetry for one in read[-2:])
    assert reader.damage() == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"at most {MAX_TOPICS} signals" in caplog.text


# Bags of ROS


Content = Callable[[Any, Callable[[int], Any]], Any]


def imu(stamp_ns: int, number: float, *, measured: bool = True) -> Content:
    def content(types: Any, header: Callable[[int], Any]) -> Any:
        vector, covariance = types["geometry_msgs/msg/Vector3"], np.zeros(9)
        unknown = np.array([0.0 if measured else -1.0] + [0.0] * 8)
        return types["sensor_msgs/msg/Imu"](
            header=header(stamp_ns),
            orientation=types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
            orientation_covariance=covariance,
            angular_velocity=vector(number, 0.5, 0.0),
            angular_velocity_covariance=unknown,
            linear_acceleration=vector(0.0, number, 9.81),
            linear_acceleration_covariance=covariance,
        )

    return content


def twist(number: float) -> Content:
    def content(types: Any, header: Callable[[int], Any]) -> Any:
        vector = types["geometry_msgs/msg/Vector3"]
        return types["geometry_msgs/msg/Twist"](linear=vector(number, 0.0, 0.0), angular=vector(0.0, 0.0, 0.1))

    return content


def odometry(stamp_ns: int, number: float) -> Content:
    def content(types: Any, header: Callable[[int], Any]) -> Any:
        name, vector = "geometry_msgs/msg/", types["geometry_msgs/msg/Vector3"]
        pose = types[f"{name}Pose"](
            types[f"{name}Point"](number, 0.0, 0.0), types[f"{name}Quaternion"](0.0, 0.0, 0.0, 1.0)
        )
        still = types[f"{name}Twist"](vector(0.0, 0.0, 0.0), vector(0.0, 0.0, 0.0))
        return types["nav_msgs/msg/Odometry"](
            header=header(stamp_ns),
            child_frame_id="base",
            pose=types[f"{name}PoseWithCovariance"](pose, np.zeros(36)),
            twist=types[f"{name}TwistWithCovariance"](still, np.zeros(36)),
        )

    return content


def bagged(path: Path, kind: BagKind, write: Callable[[Bag], None]) -> Path:
    with bag(path, kind) as written:
        write(written)
    return path


def images(written: Bag, numbers: Sequence[int], *, log_late_ns: int = 2 * MS) -> None:
    for number in numbers:
        at_ns = START_NS + 100 * MS * number
        for eye in ("left", "right"):
            written.image(f"/{eye}/compressed", at_ns + log_late_ns, at_ns, jpeg(number))


def read_bag(path: Path) -> list[EncodedPair]:
    with open_recording(path) as reader:
        pairs = list(reader)
    assert reader.damage() == []
    return pairs


@pytest.mark.parametrize("kind", ["db3", "mcap", "ros1"])
def test_a_bag_brings_imu_odometry_and_velocity_commands(tmp_path: Path, kind: BagKind) -> None:
    def write(written: Bag) -> None:
        for step in range(0, 400, 5):  # ms; an IMU of 200 Hz
            at_ns = START_NS + step * MS
            written.message("/imu/data", at_ns + MS, "sensor_msgs/msg/Imu", imu(at_ns, float(step)))
            if step % 50 == 0:
                written.message("/odom", at_ns + MS, "nav_msgs/msg/Odometry", odometry(at_ns, float(step)))
                written.message("/cmd_vel", at_ns + 2 * MS, "geometry_msgs/msg/Twist", twist(float(step)))
            if step % 100 == 0:
                images(written, [step // 100])

    path = bagged(tmp_path / ("walk.bag" if kind == "ros1" else "walk"), kind, write)
    pairs = read_bag(path)
    assert [len(pair.telemetry.signals["acceleration"]) for pair in pairs] == [1, 20, 20, 20]
    second = pairs[1].telemetry.signals
    assert second["acceleration"].unit == "m/s^2"
    assert second["acceleration"].values.tolist() == [[0.0, float(step), 9.81] for step in range(5, 105, 5)]
    assert second["acceleration"].times_ns.tolist() == [START_NS + step * MS for step in range(5, 105, 5)]
    assert second["gyroscope"].values.tolist() == [[float(step), 0.5, 0.0] for step in range(5, 105, 5)]
    assert second["odometry"].values.tolist() == [[float(step), 0, 0, 0, 0, 0, 1] for step in (50, 100)]
    assert second["action"].values.tolist() == [[float(step), 0, 0, 0, 0, 0.1] for step in (50, 100)]
    assert second["action"].times_ns.tolist() == [
        START_NS + step * MS for step in (50, 100)
    ]  # by the log, moved to the stamps
    assert read_bag(path) == pairs
    again = recorded(tmp_path / "again.mcap", pairs)
    assert read_pairs(again.read_bytes()) == pairs


def test_a_second_imu_has_the_name_of_its_topic_and_what_is_not_measured_is_no_signal(tmp_path: Path) -> None:
    def write(written: Bag) -> None:
        for step in (0, 50):
            at_ns = START_NS + step * MS
            written.message("/a/imu", at_ns, "sensor_msgs/msg/Imu", imu(at_ns, 1.0))
            written.message("/b/imu raw", at_ns, "sensor_msgs/msg/Imu", imu(at_ns, 2.0, measured=False))
        images(written, [0, 1])

    (first, second) = read_bag(bagged(tmp_path / "walk", "mcap", write))
    assert sorted(second.telemetry.signals) == ["acceleration", "acceleration.b-imu-raw", "gyroscope"]
    assert second.telemetry.signals["acceleration.b-imu-raw"].values[0, 1] == 2.0
    assert sorted(first.telemetry.signals) == sorted(second.telemetry.signals)


@pytest.mark.parametrize("imu_first", [True, False])
def test_topics_that_lie_one_after_the_other_bring_the_rows_between_pairs_or_say_so(
    tmp_path: Path, imu_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def write_imu(written: Bag) -> None:
        for step in range(0, 600, 10):
            at_ns = START_NS + step * MS
            written.message("/imu", at_ns, "sensor_msgs/msg/Imu", imu(at_ns, float(step)))

    def write(written: Bag) -> None:
        if imu_first:
            write_imu(written)
        for eye in ("left", "right"):
            for number in range(6):
                at_ns = START_NS + 100 * MS * number
                written.image(f"/{eye}/compressed", at_ns, at_ns, jpeg(number))
        if not imu_first:
            write_imu(written)

    pairs = read_bag(bagged(tmp_path / "walk", "mcap", write))
    rows = [len(pair.telemetry.signals.get("acceleration", ())) for pair in pairs]
    if imu_first:
        assert rows == [1, 10, 10, 10, 10, 10]
        assert not caplog.records
    else:
        left_out = 2 * (51 - sum(rows))
        assert f"{left_out} rows of signals are left out" in caplog.text


def test_signals_of_images_that_are_no_pair_go_with_the_next_one(tmp_path: Path) -> None:
    def write(written: Bag) -> None:
        for step in range(0, 410, 10):
            at_ns = START_NS + step * MS
            written.message("/imu", at_ns, "sensor_msgs/msg/Imu", imu(at_ns, float(step)))
        images(written, [0, 1])
        for eye, data in (("left", jpeg(2)), ("right", small)):
            at_ns = START_NS + 200 * MS
            written.image(f"/{eye}/compressed", at_ns + 2 * MS, at_ns, data)
        images(written, [3, 4])

    small = cv2.imencode(".jpg", painted(2)[:40])[1].tobytes()
    with open_recording(bagged(tmp_path / "walk", "mcap", write)) as reader:
        pairs = list(reader)
    assert reader.unreadable == 1
    assert [one.header.seq for one in pairs] == [0, 1, 2, 3]
    assert [len(one.telemetry.signals["acceleration"]) for one in pairs] == [1, 10, 20, 10]
    assert [from_parts(to_parts(one)) for one in pairs] == pairs


def test_rows_that_are_too_many_for_a_pair_are_thinned_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def write(written: Bag) -> None:
        images(written, [0])
        for step in range(1, 200):
            at_ns = START_NS + step * MS
            written.message("/imu", at_ns, "sensor_msgs/msg/Imu", imu(at_ns, float(step)))
        images(written, [2])

    with caplog.at_level(logging.WARNING):
        (_, second) = read_bag(bagged(tmp_path / "walk", "mcap", write))
    assert len(second.telemetry.signals["acceleration"]) == MAX_ROWS
    assert "270 rows of signals are left out: there are more than pairs can have" in caplog.text


def test_a_damaged_signal_of_a_bag_is_counted_and_costs_no_pair(tmp_path: Path) -> None:
    def write(written: Bag) -> None:
        images(written, [0])
        at_ns = START_NS + 50 * MS
        written.message("/imu", at_ns, "sensor_msgs/msg/Imu", imu(at_ns, float("nan")))
        written.message("/cmd_vel", at_ns, "geometry_msgs/msg/Twist", twist(1.0))
        images(written, [1])

    with open_recording(bagged(tmp_path / "walk", "db3", write)) as reader:
        (_, second) = list(reader)
    assert sorted(second.telemetry.signals) == ["action"]
    assert reader.unreadable == 2
    assert "not finite" in " ".join(reader.damage())


def _without_checksums(data: bytes) -> bytes:
    """An MCAP file that was changed, with zeros for the checksums of its chunks, which then count as unknown."""
    changed = bytearray(data)
    at = 8
    while at + 9 <= len(changed):
        opcode, length = changed[at], int.from_bytes(changed[at + 1 : at + 9], "little")
        if opcode == 6:
            changed[at + 9 + 24 : at + 9 + 28] = bytes(4)
        at += 9 + length
    return bytes(changed)
