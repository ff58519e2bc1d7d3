"""The calibration that a recording holds brings its rows together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import BagKind, bag, json_mcap
from foxglove_schemas_protobuf.CameraCalibration_pb2 import CameraCalibration
from mcap.writer import Writer
from painted_cameras import SIZE, cameras
from recorded import START_NS, made, recorded
from test_stream_calibration import ros

from stream.calibration.align import Shift, aligner
from stream.calibration.camera_info import recorded_calibration
from stream.calibration.rectify import Rectifier
from stream.calibration.stereo import CalibrationError
from stream.calibration.yaml_file import numbers, parse
from stream.errors import StreamError

Info = dict[str, Any]


def infos() -> tuple[Info, Info]:
    """The fields of a CameraInfo of each eye."""
    found = []
    for text in ros(cameras()):
        table = parse(text, "camera_info")
        names = ("camera_matrix", "distortion_coefficients", "rectification_matrix", "projection_matrix")
        arrays = {letter: numbers(table, name) for letter, name in zip("KDRP", names, strict=True)}
        found.append({"width": SIZE[1], "height": SIZE[0], "distortion_model": "plumb_bob", **arrays})
    return found[0], found[1]


def json_of(topics: tuple[str, str] = ("/left/camera_info", "/right/camera_info"), **changed: Any) -> bytes:
    messages = []
    for topic, info in zip(topics, infos(), strict=True):
        plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in info.items()}
        messages.append((topic, START_NS, plain | changed))
    return json_mcap(messages, "foxglove.CameraCalibration")


def same_as_known(path: Path) -> bool:
    read, known = recorded_calibration(path), cameras()
    np.testing.assert_allclose(read.rotation, known.rotation, atol=1e-9)
    np.testing.assert_allclose(read.right.matrix, known.right.matrix)
    return read.size == SIZE


@pytest.mark.parametrize("kind", ["mcap", "db3", "ros1"])
def test_camera_info_of_a_bag_of_ros_is_read(tmp_path: Path, kind: BagKind) -> None:
    path = tmp_path / ("walk.bag" if kind == "ros1" else "walk")
    with bag(path, kind) as written:
        for eye, info in zip(("left", "right"), infos(), strict=True):
            written.camera_info(f"/stereo/{eye}/camera_info", START_NS, info)
    assert same_as_known(path)
    assert isinstance(aligner([path], None), Rectifier)


def test_foxgloves_calibration_is_read(tmp_path: Path) -> None:
    (tmp_path / "json.mcap").write_bytes(json_of(("/cam0/info", "/cam1/info")))
    assert same_as_known(tmp_path / "json.mcap")
    path = tmp_path / "protobuf.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        number = writer.register_schema("foxglove.CameraCalibration", "protobuf", b"")
        for eye, info in zip(("left", "right"), infos(), strict=True):
            channel = writer.register_channel(f"/{eye}/calibration", "protobuf", number)
            data = CameraCalibration(**info).SerializeToString()
            writer.add_message(channel, START_NS, data, START_NS)
        writer.finish()  # type: ignore[no-untyped-call]
    assert same_as_known(path)


def test_a_recording_without_a_calibration_of_both_eyes_is_refused_with_the_topics(tmp_path: Path) -> None:
    ours = recorded(tmp_path / "ours.mcap", [made(0)])
    (tmp_path / "one.mcap").write_bytes(json_of(("/left/camera_info", "/left/camera_info")))
    (tmp_path / "torn.mcap").write_bytes(json_of(K="nothing"))
    (tmp_path / "short.mcap").write_bytes(json_of(K=[1.0]))
    (tmp_path / "none.mcap").write_bytes(b"")
    for path, reason in (
        (ours, "topics with one: none"),
        (tmp_path / "one.mcap", "topics with one: /left/camera_info"),
        (tmp_path / "torn.mcap", "/left/camera_info: the message does not decode"),
        (tmp_path / "short.mcap", "camera_matrix holds 1 numbers, not 9"),
    ):
        with pytest.raises(CalibrationError, match=reason):
            recorded_calibration(path)
    with pytest.raises(StreamError):
        recorded_calibration(tmp_path / "none.mcap")
    assert isinstance(aligner([], 3), Shift)
    assert aligner([], None) is None
