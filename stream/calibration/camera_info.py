"""The calibration in a recording: ROS's camera_info, or Foxglove's CameraCalibration, which our own recordings have too."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from foxglove_schemas_protobuf.CameraCalibration_pb2 import CameraCalibration
from google.protobuf.message import DecodeError

from stream.calibration.formats import from_two
from stream.calibration.stereo import CalibrationError, StereoCalibration
from stream.errors import reported_as
from stream.pair import Header
from stream.recording.bags import open_messages
from stream.recording.mcap_reader import Message
from stream.recording.messages import read_ros

MAX_MESSAGES = 5000
"""So many messages are looked at: calibrations are repeated beside every image."""
MAX_BYTES = 64 << 10
_SIDES = {"left": ("left", "cam0", "camera0", "infra1"), "right": ("right", "cam1", "camera1", "infra2")}


class _Json(msgspec.Struct):
    width: int
    height: int
    K: list[float]
    P: list[float]
    D: list[float] = []
    R: list[float] = []
    distortion_model: str = ""


def recorded_calibration(path: Path) -> StereoCalibration:
    """Return the calibration in a recording.

    Raises CalibrationError if it has none of both eyes, StreamError if it cannot be read.
    """
    eyes: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    with ExitStack() as stack, reported_as(CalibrationError, f"{path} cannot be read"):
        for message in islice(open_messages(path, stack), MAX_MESSAGES):
            name = message.topic.name
            try:
                table = None if len(message.data) > MAX_BYTES else _table(message)
                if table is None:
                    continue
                seen.add(name)
                if (eye := _eye_of(name)) is not None:
                    eyes.setdefault(eye, table)
                if len(eyes) == len(_SIDES):
                    return from_two(eyes["left"], eyes["right"])
            except (CalibrationError, ValueError) as error:
                raise CalibrationError(f"{path}: {name}: {error}") from error
    topics = ", ".join(sorted(seen)[:4]) or "none"
    raise CalibrationError(
        f"{path} has no calibration of a left and a right camera (camera_info); topics with one: {topics}"
    )


def rectified_messages(calibration: StereoCalibration, header: Header) -> tuple[bytes, bytes]:
    """Return foxglove.CameraCalibration of the left and of the right eye for images that are rectified.

    header: of the first pair with it, whose size the images have. Translations are passed on in the calibration's unit.
    """
    messages = []
    baseline = float(calibration.translation[0])
    for side, eye, shift in (("left", calibration.left, 0.0), ("right", calibration.right, baseline)):
        projection = np.column_stack([eye.matrix, [eye.matrix[0, 0] * shift, 0.0, 0.0]])
        message = CameraCalibration(
            frame_id=f"{header.device}/{side}",
            width=header.width,
            height=header.height,
            distortion_model="plumb_bob",
            K=eye.matrix.ravel(),
            D=eye.distortion if len(eye.distortion) else np.zeros(5),
            R=np.eye(3).ravel(),
            P=projection.ravel(),
        )
        message.timestamp.FromNanoseconds(header.left_ns)
        messages.append(bytes(message.SerializeToString()))
    return messages[0], messages[1]


def _eye_of(topic: str) -> str | None:
    found = [eye for eye, words in _SIDES.items() if any(word in topic.lower() for word in words)]
    return found[0] if len(found) == 1 else None


def _table(message: Message) -> dict[str, Any] | None:
    """Return a calibration under the names of ROS's files; None for another message. Raises ValueError for a damaged one."""
    topic = message.topic
    schema = topic.schema.replace("/msg/", "/")
    if schema == "sensor_msgs/CameraInfo" and topic.encoding in ("cdr", "ros1"):
        info = read_ros("sensor_msgs/msg/CameraInfo", topic.encoding, message.data)
        letters = "kdrp" if topic.encoding == "cdr" else "KDRP"
        arrays = [getattr(info, letter).tolist() for letter in letters]
    elif schema == "foxglove.CameraCalibration" and topic.encoding == "protobuf":
        try:
            info = CameraCalibration.FromString(bytes(message.data))
        except DecodeError as error:
            raise ValueError(f"the message does not decode: {error}") from error
        arrays = [list(getattr(info, letter)) for letter in "KDRP"]
    elif schema == "foxglove.CameraCalibration" and topic.encoding == "json":
        try:
            info = msgspec.json.decode(message.data, type=_Json)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise ValueError(f"the message does not decode: {error}") from error
        arrays = [getattr(info, letter) for letter in "KDRP"]
    else:
        return None
    names = ("camera_matrix", "distortion_coefficients", "rectification_matrix", "projection_matrix")
    sizes = {"image_width": info.width, "image_height": info.height, "distortion_model": info.distortion_model}
    return dict(zip(names, arrays, strict=True)) | sizes
