"""Recordings of other tools: what Foxglove's schemas and `rosbags` write."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import cv2
import flatbuffers
import numpy as np
from mcap.writer import Writer
from recorded import START_NS
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_typestore

from stream.pair import EncodedPair
from stream.recording.foreign import EyeTopics
from stream.recording.mcap_reader import McapReader
from stream.recording.reader import RecordingReader

MS = 1_000_000
FRAME_NS = 100 * MS
EYES = ("left", "right")


def painted(number: int, channels: int = 3) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A soft picture that no other number has: uint8 [48, 64, channels]."""
    small = np.random.default_rng(number).integers(30, 220, (6, 8, channels), np.uint8)
    return np.asarray(cv2.resize(small, (64, 48)), np.uint8).reshape(48, 64, channels)


def jpeg(number: int) -> bytes:
    return cv2.imencode(".jpg", painted(number))[1].tobytes()


def json_mcap(
    messages: list[tuple[str, int, dict[str, Any]]], schema: str = "foxglove.CompressedImage", encoding: str = "json"
) -> bytes:
    """An MCAP file of JSON messages: topic, log time, message; bytes in a message become base64."""
    file = io.BytesIO()
    writer = Writer(file)
    writer.start()
    number = writer.register_schema(schema, "jsonschema", b"{}")
    channels = {
        topic: writer.register_channel(topic, encoding, number) for topic in dict.fromkeys(m[0] for m in messages)
    }
    for topic, log_ns, message in messages:
        text = {
            key: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for key, value in message.items()
        }
        writer.add_message(channels[topic], log_ns, json.dumps(text).encode(), log_ns)
    writer.finish()  # type: ignore[no-untyped-call]
    return file.getvalue()


def flatbuffer_mcap(messages: list[tuple[str, int, dict[int, Any]]], schema: str, length: int) -> bytes:
    """An MCAP file of FlatBuffers: topic, log time, the fields by number; field 0 is a stamp in ns. length: fields of a table."""
    file = io.BytesIO()
    writer = Writer(file)
    writer.start()
    number = writer.register_schema(schema, "flatbuffer", b"")
    for topic, log_ns, fields in messages:
        builder = flatbuffers.Builder(64)
        placed = {
            field: builder.CreateString(value) if isinstance(value, str) else builder.CreateByteVector(value)
            for field, value in fields.items()
            if isinstance(value, str | bytes)
        }
        builder.StartObject(length)
        for field, place in placed.items():
            builder.PrependUOffsetTRelativeSlot(field, place, 0)
        for field, value in fields.items():
            if isinstance(value, int) and field:
                builder.PrependUint32Slot(field, value, 0)
        builder.Prep(4, 8)  # a struct stands in the table itself
        builder.PrependUint32(fields[0] % 10**9)
        builder.PrependUint32(fields[0] // 10**9)
        builder.PrependStructSlot(0, builder.Offset(), 0)
        builder.Finish(builder.EndObject())
        channel = writer.register_channel(topic, "flatbuffer", number)
        writer.add_message(channel, log_ns, bytes(builder.Output()), log_ns)
    writer.finish()  # type: ignore[no-untyped-call]
    return file.getvalue()


def stamp(ns: int) -> dict[str, int]:
    return {"sec": ns // 10**9, "nsec": ns % 10**9}


class Bag:
    """Writes messages of sensor_msgs into a bag of ROS."""

    def __init__(self, writer: Any, store: Any, kind: str) -> None:
        self._writer, self._store, self._kind = writer, store, kind
        self._topics: dict[str, Any] = {}

    def image(
        self, topic: str, log_ns: int, stamp_ns: int, content: bytes | dict[str, Any], format: str = "jpeg"
    ) -> None:
        """content: an image file, or the fields of an Image."""
        name = "sensor_msgs/msg/CompressedImage" if isinstance(content, bytes) else "sensor_msgs/msg/Image"
        if topic not in self._topics:
            self._topics[topic] = self._writer.add_connection(topic, name, typestore=self._store)
        types = self._store.types
        time = types["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
        header = {"frame_id": "camera", "stamp": time} | ({"seq": 0} if self._kind == "ros1" else {})
        if isinstance(content, bytes):
            fields: dict[str, Any] = {"format": format, "data": np.frombuffer(content, np.uint8)}
        else:
            fields = {"is_bigendian": 0} | content
        message = types[name](header=types["std_msgs/msg/Header"](**header), **fields)
        write = self._store.serialize_ros1 if self._kind == "ros1" else self._store.serialize_cdr
        self._writer.write(self._topics[topic], log_ns, write(message, name))

    def camera_info(self, topic: str, log_ns: int, info: dict[str, Any]) -> None:
        """info: width, height, distortion_model, and the arrays K, D, R, P."""
        name, types = "sensor_msgs/msg/CameraInfo", self._store.types
        connection = self._writer.add_connection(topic, name, typestore=self._store)
        time = types["builtin_interfaces/msg/Time"](log_ns // 10**9, log_ns % 10**9)
        header = {"frame_id": "camera", "stamp": time} | ({"seq": 0} if self._kind == "ros1" else {})
        arrays = {key if self._kind == "ros1" else key.lower(): info[key] for key in "KDRP"}
        plain = {key: info[key] for key in ("width", "height", "distortion_model")}
        region = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        message = types[name](
            header=types["std_msgs/msg/Header"](**header), **plain, **arrays, binning_x=0, binning_y=0, roi=region
        )
        write = self._store.serialize_ros1 if self._kind == "ros1" else self._store.serialize_cdr
        self._writer.write(connection, log_ns, write(message, name))

    def message(self, topic: str, log_ns: int, name: str, content: Any) -> None:
        """name: of the type, such as sensor_msgs/msg/Imu. content: returns the message, given the types and a function that
        makes a header with a stamp in nanoseconds.
        """
        types = self._store.types
        if topic not in self._topics:
            self._topics[topic] = self._writer.add_connection(topic, name, typestore=self._store)

        def header(stamp_ns: int) -> Any:
            time = types["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
            fields = {"frame_id": "base", "stamp": time} | ({"seq": 0} if self._kind == "ros1" else {})
            return types["std_msgs/msg/Header"](**fields)

        write = self._store.serialize_ros1 if self._kind == "ros1" else self._store.serialize_cdr
        self._writer.write(self._topics[topic], log_ns, write(content(types, header), name))


BagKind = Literal["db3", "mcap", "db3-zstd", "ros1", "ros1-bz2", "ros1-lz4"]
BAGS: tuple[BagKind, ...] = ("db3", "mcap", "db3-zstd", "ros1", "ros1-bz2", "ros1-lz4")


@contextmanager
def bag(path: Path, kind: BagKind) -> Iterator[Bag]:
    """Write a bag: a folder for ROS 2, a file for ROS 1."""
    if kind.startswith("ros1"):
        one = rosbag1.Writer(path)
        if kind != "ros1":
            one.set_compression(one.CompressionFormat[kind.removeprefix("ros1-").upper()])
        with one:
            yield Bag(one, get_typestore(Stores.ROS1_NOETIC), "ros1")
        return
    plugin = rosbag2.StoragePlugin.MCAP if kind == "mcap" else rosbag2.StoragePlugin.SQLITE3
    two = rosbag2.Writer(path, version=8, storage_plugin=plugin)
    if kind == "db3-zstd":
        two.set_compression(rosbag2.CompressionMode.MESSAGE, rosbag2.CompressionFormat.ZSTD)
    with two:
        yield Bag(two, get_typestore(Stores.ROS2_HUMBLE), "cdr")


def in_pairs(write: Callable[[str, int, int], None], count: int, *, skew_ns: int = 2 * MS) -> None:
    """Call write(eye, captured, number) for each image of so many pairs; the eyes have even and odd numbers."""
    for pair in range(count):
        for odd, eye in enumerate(EYES):
            write(eye, START_NS + pair * FRAME_NS + odd * skew_ns, 2 * pair + odd)


def read(data: bytes, topics: EyeTopics | None = None) -> tuple[RecordingReader, list[EncodedPair]]:
    """The pairs of an MCAP file, and its reader."""
    reader = RecordingReader(McapReader(io.BytesIO(data)), "day", topics)
    return reader, list(reader)
