"""Encodes the messages of our recordings: images as Foxglove's CompressedImage or RawImage, the header as JSON.

The JSON carries no wire version, because a recording outlives wire versions. Its schema is flat and has one plain type for each
field, since Foxglove shows nothing else; a field that is None is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from stream.image import Image
from stream.pair import Header
from stream.recording.protobuf import bytes_field


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
