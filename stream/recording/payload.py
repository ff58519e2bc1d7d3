"""Encodes and decodes the messages of a recording: images as Foxglove's CompressedImage or RawImage, the header as JSON.

The JSON carries no wire version, because a recording outlives wire versions. Its schema is flat and has one plain type for each
field, since Foxglove shows nothing else; a field that is None is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.timestamp_pb2 import Timestamp

from stream.image import MAX_EYE_BYTES, MAX_SIDE, Image
from stream.pair import Header
from stream.pairing import TimedImage
from stream.recording.protobuf import Fields, bytes_field


@dataclass(frozen=True, slots=True)
class Schema:
    """The type of the messages of a channel, as MCAP names it."""

    name: str
    message_encoding: str
    schema_encoding: str
    data: bytes


_FIELDS = [field for field in msgspec.structs.fields(Header) if field.name != "version"]
_TEXTS = ("device", "epoch", "codec", "kept")
_HeaderObject = msgspec.defstruct(
    "Header",
    [(field.name, field.type) if field.required else (field.name, field.type, field.default) for field in _FIELDS],
    kw_only=True,
    forbid_unknown_fields=True,
)
_decoder = msgspec.json.Decoder(_HeaderObject)


def header_data(header: Header) -> bytes:
    """Return the header as a JSON object."""
    values = {field.name: getattr(header, field.name) for field in _FIELDS}
    return msgspec.json.encode({name: value for name, value in values.items() if value is not None})


def read_header(data: memoryview) -> Header:
    """Decode the header in a message. Raises ValueError for anything else."""
    try:
        return Header(**msgspec.structs.asdict(_decoder.decode(data)))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"the header does not decode: {error}") from error


def eye_data(image: bytes | Image, captured_ns: int, frame_id: str) -> tuple[bytes, bytes]:
    """Return an image as a message in two parts, of which the second holds the image alone.

    image: a JPEG file, which becomes a CompressedImage, or pixels, uint8 [H, W] or [H, W, 3] BGR, which become a RawImage.
    """
    if isinstance(image, bytes):
        jpeg = CompressedImage(frame_id=frame_id, format="jpeg")
        jpeg.timestamp.FromNanoseconds(captured_ns)
        return _bytes(jpeg) + bytes_field(CompressedImage.DATA_FIELD_NUMBER, len(image)), image
    height, width = image.shape[:2]
    grey = image.ndim == 2
    message = RawImage(
        frame_id=frame_id,
        width=width,
        height=height,
        encoding="mono8" if grey else "bgr8",
        step=width if grey else 3 * width,
    )
    message.timestamp.FromNanoseconds(captured_ns)
    return _bytes(message) + bytes_field(RawImage.DATA_FIELD_NUMBER, image.nbytes), image.tobytes()


def read_eye(schema: str, data: memoryview, default_ns: int) -> TimedImage:
    """Decode the image in a message of the schema COMPRESSED.name or RAW.name; it shares no memory with `data`.

    default_ns: capture time of an image whose message has no time.
    Raises ValueError if it is damaged, or not a JPEG, bgr8, rgb8 or mono8.
    """
    message, captured_ns = Fields(data), default_ns
    if CompressedImage.TIMESTAMP_FIELD_NUMBER in message:  # both messages have it in the same place
        timestamp = Fields(message.data(CompressedImage.TIMESTAMP_FIELD_NUMBER))
        seconds = timestamp.integer(Timestamp.SECONDS_FIELD_NUMBER)
        captured_ns = 10**9 * seconds + timestamp.integer(Timestamp.NANOS_FIELD_NUMBER)
    return TimedImage(captured_ns, _jpeg(message) if schema == COMPRESSED.name else _pixels(message))


def _jpeg(message: Fields) -> bytes:
    kind, data = message.text(CompressedImage.FORMAT_FIELD_NUMBER), message.data(CompressedImage.DATA_FIELD_NUMBER)
    if kind.lower() not in ("jpeg", "jpg"):
        raise ValueError(f"an image of format {kind!r} is not read, jpeg is")
    if not 1 <= len(data) <= MAX_EYE_BYTES:
        raise ValueError(f"a JPEG of {len(data)} bytes is out of bounds")
    return bytes(data)


def _pixels(message: Fields) -> Image:
    encoding, data = message.text(RawImage.ENCODING_FIELD_NUMBER), message.data(RawImage.DATA_FIELD_NUMBER)
    height, width, step = (message.integer(number) for number in _SIZES)
    channels = _CHANNELS.get(encoding)
    if channels is None:
        raise ValueError(f"an image of encoding {encoding!r} is not read; {', '.join(_CHANNELS)} are")
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and step >= width * channels):
        raise ValueError(f"an image of {width}x{height} pixels and {step} bytes a row is out of bounds")
    if len(data) != height * step:
        raise ValueError(f"an image of {height} rows of {step} bytes has {len(data)} bytes")
    rows = np.frombuffer(data, np.uint8).reshape(height, step)[:, : width * channels]
    image = rows if channels == 1 else rows.reshape(height, width, 3)
    return np.array(image[..., ::-1] if encoding == "rgb8" else image, order="C")


_SIZES = (RawImage.HEIGHT_FIELD_NUMBER, RawImage.WIDTH_FIELD_NUMBER, RawImage.STEP_FIELD_NUMBER)
_CHANNELS: Mapping[str, int] = {"bgr8": 3, "8UC3": 3, "rgb8": 3, "mono8": 1, "8UC1": 1}


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _protobuf(message: Any) -> Schema:
    files = FileDescriptorSet()
    for file in (*message.DESCRIPTOR.file.dependencies, message.DESCRIPTOR.file):
        file.CopyToProto(files.file.add())
    return Schema(message.DESCRIPTOR.full_name, "protobuf", "protobuf", _bytes(files))


def _header_schema() -> Schema:
    properties = {field.name: {"type": "string" if field.name in _TEXTS else "integer"} for field in _FIELDS}
    data = msgspec.json.encode({"title": "Header", "type": "object", "properties": properties})
    return Schema("babyagent.Header", "json", "jsonschema", data)


COMPRESSED = _protobuf(CompressedImage)
RAW = _protobuf(RawImage)
HEADER = _header_schema()
