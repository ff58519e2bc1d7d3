"""Reads the image messages of other tools: Foxglove's in protobuf, JSON and FlatBuffers, ROS 2's in CDR and ROS 1's.

The messages of ROS are deserialised by the package `rosbags`, which the extra `ros` installs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache, partial
from typing import Any, NamedTuple

import msgspec
import zstandard
from flatbuffers.table import Table
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from google.protobuf.timestamp_pb2 import Timestamp

from stream.errors import StreamError
from stream.image import MAX_EYE_BYTES
from stream.recording.mcap_reader import MAX_RATIO, Message, Topic
from stream.recording.pixels import Compressed, Raw
from stream.recording.protobuf import Fields

_ZSTD = b"\x28\xb5\x2f\xfd"
_FREE_BYTES = 1 << 20
_UINT32, _TIME = struct.Struct("<I"), struct.Struct("<II")
_VIDEO = ("video", "ffmpeg", "theora", "h264", "h265", "hevc")


class ImageMessage(NamedTuple):
    """The content of a message with an image."""

    stamp_ns: int | None
    """The time in its header, nanoseconds; None if it has none. Zero is no time."""
    content: Compressed | Raw


def image_reader(topic: Topic) -> Callable[[memoryview], ImageMessage] | None:
    """Return what reads the messages of a topic; None if they are no images that are read.

    The returned function raises ValueError for a damaged message, and StreamError if `rosbags` is not installed.
    """
    return _READERS.get((topic.encoding, topic.schema.replace("/msg/", "/")))


def is_video(topic: Topic) -> bool:
    """Return whether the messages of a topic are parts of a film, which is not read."""
    return any(word in topic.schema.lower() for word in _VIDEO)


def read_image(message: Message) -> ImageMessage:
    """Return the image in a message. Raises ValueError if it is damaged or no image, StreamError without `rosbags`."""
    read = image_reader(message.topic)
    if read is None:
        raise ValueError(f"{message.topic.schema} in {message.topic.encoding} is not read")
    return read(message.data)


def read_protobuf(is_raw: bool, data: memoryview) -> ImageMessage:
    """Read a RawImage or a CompressedImage of Foxglove."""
    message, stamp_ns = Fields(data), None
    if CompressedImage.TIMESTAMP_FIELD_NUMBER in message:  # both messages have it in the same place
        timestamp = Fields(message.data(CompressedImage.TIMESTAMP_FIELD_NUMBER))
        seconds = timestamp.integer(Timestamp.SECONDS_FIELD_NUMBER)
        stamp_ns = 10**9 * seconds + timestamp.integer(Timestamp.NANOS_FIELD_NUMBER)
    if not is_raw:
        kind, content = CompressedImage.FORMAT_FIELD_NUMBER, CompressedImage.DATA_FIELD_NUMBER
        return ImageMessage(stamp_ns, Compressed(message.text(kind), message.data(content)))
    height, width, step = (message.integer(number) for number in _SIZES)
    encoding, pixels = message.text(RawImage.ENCODING_FIELD_NUMBER), message.data(RawImage.DATA_FIELD_NUMBER)
    return ImageMessage(stamp_ns, Raw(encoding, height, width, step, pixels))


_SIZES = (RawImage.HEIGHT_FIELD_NUMBER, RawImage.WIDTH_FIELD_NUMBER, RawImage.STEP_FIELD_NUMBER)


class _Time(msgspec.Struct):
    sec: int = 0
    nsec: int = 0


class _JsonCompressed(msgspec.Struct):
    data: bytes
    format: str = ""
    timestamp: _Time | str | None = None


class _JsonRaw(msgspec.Struct):
    data: bytes
    encoding: str
    height: int
    width: int
    step: int = 0
    timestamp: _Time | str | None = None


_decoders: dict[bool, Any] = {False: msgspec.json.Decoder(_JsonCompressed), True: msgspec.json.Decoder(_JsonRaw)}


def _read_json(is_raw: bool, data: memoryview) -> ImageMessage:
    try:
        message = _decoders[is_raw].decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"the JSON of an image does not decode: {error}") from error
    stamp, stamp_ns = message.timestamp, None
    if isinstance(stamp, str):  # protobuf's form of a time in JSON
        when = datetime.fromisoformat(stamp)
        stamp_ns = int(when.timestamp()) * 10**9 + when.microsecond * 1000
    elif stamp is not None:
        stamp_ns = 10**9 * stamp.sec + stamp.nsec
    content = memoryview(message.data)
    if not is_raw:
        return ImageMessage(stamp_ns, Compressed(message.format, content))
    return ImageMessage(stamp_ns, Raw(message.encoding, message.height, message.width, message.step, content))


def _read_flatbuffer(is_raw: bool, data: memoryview) -> ImageMessage:
    """Read a RawImage or a CompressedImage of Foxglove; the numbers of their fields are those of its schemas (`.fbs`)."""
    try:
        table = Table(data, _UINT32.unpack_from(data)[0])
        at = _place(table, 0)
        sec, nsec = _TIME.unpack_from(data, at) if at else (0, 0)
        stamp_ns = 10**9 * sec + nsec
        if not is_raw:
            return ImageMessage(stamp_ns, Compressed(str(_vector(table, 3), "utf-8"), _vector(table, 2)))
        width, height, step = (_UINT32.unpack_from(data, at)[0] if (at := _place(table, n)) else 0 for n in (2, 3, 5))
        raw = Raw(str(_vector(table, 4), "utf-8"), height, width, step, _vector(table, 6))
        return ImageMessage(stamp_ns, raw)
    except (struct.error, TypeError, ValueError) as error:
        raise ValueError(f"the FlatBuffer of an image does not decode: {error}") from error


def _place(table: Table, field: int) -> int:
    """Return where a field of a table is in its message; 0 if it is not there."""
    offset = int(table.Offset(4 + 2 * field))
    return int(table.Pos) + offset if offset else 0


def _vector(table: Table, field: int) -> memoryview:
    """Return the bytes of a vector or string as a view. Raises ValueError if they reach beyond the message."""
    if not (at := _place(table, field)):
        return memoryview(b"")
    begin = int(table.Indirect(at))
    (count,) = _UINT32.unpack_from(table.Bytes, begin)
    view = memoryview(table.Bytes)[begin + 4 : begin + 4 + count]
    if len(view) != count:
        raise ValueError("a field reaches beyond its message")
    return view


def _read_ros(is_raw: bool, encoding: str, data: memoryview) -> ImageMessage:
    """Read an Image or a CompressedImage of ROS."""
    name = "sensor_msgs/msg/Image" if is_raw else "sensor_msgs/msg/CompressedImage"
    message = read_ros(name, encoding, data)
    stamp = message.header.stamp
    stamp_ns = 10**9 * stamp.sec + stamp.nanosec
    content = memoryview(message.data)
    if not is_raw:
        return ImageMessage(stamp_ns, Compressed(message.format, content))
    raw = Raw(message.encoding, message.height, message.width, message.step, content, bool(message.is_bigendian))
    return ImageMessage(stamp_ns, raw)


def read_ros(name: str, encoding: str, data: memoryview) -> Any:
    """Return the message of ROS with this type. encoding: cdr or ros1.

    Raises ValueError if it does not decode, StreamError without `rosbags`.
    """
    store, errors = _ros_types()
    try:
        if encoding == "ros1":
            return store["ros1"].deserialize_ros1(data, name)
        return store["cdr"].deserialize_cdr(_unpacked(data), name)
    except errors as error:
        raise ValueError(f"the message does not decode: {error}") from error


def _unpacked(data: memoryview) -> memoryview:
    """Return the message of a ROS 2 bag that compresses each message; another one is returned as it is."""
    if data[:4] != _ZSTD:
        return data
    most = min(2 * MAX_EYE_BYTES, _FREE_BYTES + MAX_RATIO * len(data))
    try:
        content = zstandard.ZstdDecompressor().stream_reader(data).read(most + 1)
    except zstandard.ZstdError as error:
        raise ValueError(f"the message does not decompress: {error}") from error
    if len(content) > most:
        raise ValueError("the decompressed message is out of bounds")
    return memoryview(content)


@contextmanager
def needs_rosbags() -> Iterator[None]:
    """Raise StreamError with its remedy where `rosbags` cannot be imported."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise StreamError(
            f"recordings of ROS need {error.name}: pip install -e '.[ros]' in the checkout installs it"
        ) from error


@cache
def _ros_types() -> tuple[dict[str, Any], tuple[type[Exception], ...]]:
    """Return what deserialises the messages, by encoding, and the errors that it raises for damaged ones."""
    with needs_rosbags():
        from rosbags.serde import SerdeError
        from rosbags.typesys import Stores, get_typestore
    stores = {"cdr": get_typestore(Stores.ROS2_HUMBLE), "ros1": get_typestore(Stores.ROS1_NOETIC)}
    errors = (SerdeError, AssertionError, AttributeError, IndexError, OverflowError, TypeError, ValueError)
    return stores, errors


_READERS: Mapping[tuple[str, str], Callable[[memoryview], ImageMessage]] = {
    (encoding, schema): partial(read, is_raw)
    for is_raw, foxglove, ros in (
        (False, "foxglove.CompressedImage", "sensor_msgs/CompressedImage"),
        (True, "foxglove.RawImage", "sensor_msgs/Image"),
    )
    for encoding, schema, read in (
        ("protobuf", foxglove, read_protobuf),
        ("json", foxglove, _read_json),
        ("flatbuffer", foxglove, _read_flatbuffer),
        ("cdr", ros, lambda is_raw, data: _read_ros(is_raw, "cdr", data)),
        ("ros1", ros, lambda is_raw, data: _read_ros(is_raw, "ros1", data)),
    )
}
"""By encoding and schema."""
