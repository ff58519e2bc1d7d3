"""Encodes the messages of our recordings: images as Foxglove's CompressedImage or RawImage, the header as protobuf too.

The header carries no wire version, because a recording outlives wire versions. Its schema is flat and has one plain type for each
field, since Foxglove shows nothing else; a field that is None is left out. In recordings of 0.1 it is JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from foxglove_schemas_protobuf.CameraCalibration_pb2 import CameraCalibration
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError

from stream.errors import MalformedMessage
from stream.image import Image
from stream.pair import Header
from stream.recording.protobuf import Kind, bytes_field, fields_of, message_class
from stream.signals.signal import is_label


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
_BESIDE: dict[str, Kind] = {"episode": "string", "subject": "string", "signal_rows": "int64"}
"""Fields beside those of the header; each is there only if it says something."""
_Header = message_class(
    "babyagent.Header", {one.name: "string" if one.name in _TEXTS else "int64" for one in _FIELDS} | _BESIDE
)


class HeaderMessage(NamedTuple):
    """A header as it is recorded, with what belongs to the pair beside its images. signal_rows: of all its signals."""

    header: Header
    episode: str = ""
    subject: str = ""
    signal_rows: int = 0


def header_data(header: Header, *, episode: str = "", subject: str = "", signal_rows: int = 0) -> bytes:
    """Return the header as a message. Raises MalformedMessage for a number that has no place in 64 bits."""
    beside = {"episode": episode, "subject": subject, "signal_rows": signal_rows}
    message = _Header(**{name: value for name, value in beside.items() if value})
    for field in _FIELDS:
        if (value := getattr(header, field.name)) is not None:
            try:
                setattr(message, field.name, value)
            except ValueError as error:
                raise MalformedMessage("header", f"{header.name}: {field.name} is {value}") from error
    return _bytes(message)


def read_header(data: memoryview) -> HeaderMessage:
    """Decode the header in a message. Raises ValueError for anything else."""
    beside = {}
    try:
        if is_json(data):
            found = _decoder.decode(data)
        else:
            fields = fields_of(_Header.FromString(bytes(data)))
            beside = {name: fields.pop(name) for name in _BESIDE if name in fields}
            if not all(is_label(beside.get(name, "")) for name in ("episode", "subject")):
                raise ValueError("the episode or the subject has no plain name")
            found = msgspec.convert(fields, _HeaderObject)
        return HeaderMessage(Header(**msgspec.structs.asdict(found)), **beside)
    except (msgspec.MsgspecError, DecodeError, RecursionError) as error:
        raise ValueError(f"the header does not decode: {error}") from error


def is_json(data: memoryview) -> bool:
    """Return whether a message of ours is of 0.1: JSON objects begin with a brace, which begins no message of protobuf."""
    return bytes(data[:1]) == b"{"


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


def protobuf_schema(message: Any) -> Schema:
    """Return the type of the messages of a protobuf class."""
    files = FileDescriptorSet()
    for file in (*message.DESCRIPTOR.file.dependencies, message.DESCRIPTOR.file):
        file.CopyToProto(files.file.add())
    return Schema(message.DESCRIPTOR.full_name, "protobuf", "protobuf", _bytes(files))


CALIBRATION = protobuf_schema(CameraCalibration)
COMPRESSED = protobuf_schema(CompressedImage)
RAW = protobuf_schema(RawImage)
HEADER = protobuf_schema(_Header)
