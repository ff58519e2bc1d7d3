"""Converts a pair between its three forms: images, encoded pair, message parts.

`jpeg` is the default, and a camera's own JPEG is forwarded unchanged. `lz4` is lossless, for simulated or masked images (on
noisy camera images it saves nothing, measured 1.00-1.08). Everything from outside is bounded before it is decoded: parts, bytes,
header, checksum, and the image size that the data itself declares.

One kind of damage remains undetected: a camera's JPEG with wrong or missing bits inside a scan decodes to wrong pixels (OpenCV
hides libjpeg's warnings). `stream.image` detects a missing end, a missing scan, and a scan that is too short for its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import cv2
import lz4.block
import msgspec
import numpy as np
from zlib_ng import zlib_ng

from stream.errors import MalformedMessage
from stream.image import MAX_EYE_BYTES, Image, Shape, image_shape, jpeg_shape
from stream.pair import (
    CHECKSUM_BYTES,
    WIRE_VERSIONS,
    Codec,
    EncodedPair,
    Header,
    HeaderWithTelemetry,
    Kept,
    StereoPair,
    checksum,
    encode_header,
)
from stream.signals import wire
from stream.signals.signal import MAX_BYTES, NOTHING, BadSignal, Telemetry

TOPIC = b"pair"
MAX_HEADER_BYTES = 512 + MAX_BYTES
"""A header with the longest names and the largest numbers takes less than 512, its signals at most MAX_BYTES."""
LZ4_MAX_RATIO = 255
"""No LZ4 block expands further. A larger declared size is therefore refused before memory is taken for it."""

_decoder = msgspec.msgpack.Decoder(Header)
_telemetry_decoder = msgspec.msgpack.Decoder(HeaderWithTelemetry)


class _AnyVersion(msgspec.Struct, array_like=True):
    """The first field of a header, which every version of the header has."""

    version: int


_any_version_decoder = msgspec.msgpack.Decoder(_AnyVersion)


def encode_pair(
    left: Image | bytes,
    right: Image | bytes,
    *,
    device: str,
    epoch: str,
    seq: int,
    left_ns: int,
    right_ns: int,
    codec: Codec = "jpeg",
    quality: int = 92,
    kept: Kept = "new",
    suppressed: int = 0,
    junk: int = 0,
    clock_offset_ns: int = 0,
    clock_error_ns: int | None = None,
    telemetry: Telemetry = NOTHING,
) -> EncodedPair:
    """Encode two images of one moment and give them their header.

    left, right: uint8 [H, W] or [H, W, 3] BGR; or a camera's own JPEG as bytes, which is forwarded unchanged.
    quality: of the JPEG, 1 to 100; not used for lz4 or a camera's own JPEG. telemetry: what the rig knows beside the images.
    Raises ValueError for images, header fields or signals that cannot be sent.
    """
    (left_data, left_shape), (right_data, right_shape) = (_encode_eye(eye, codec, quality) for eye in (left, right))
    if left_shape != right_shape:
        raise ValueError(f"left is {_describe(left_shape)} and right {_describe(right_shape)}: both eyes need one size")
    height, width, channels = left_shape
    header = Header(
        device=device,
        epoch=epoch,
        seq=seq,
        left_ns=left_ns,
        right_ns=right_ns,
        clock_offset_ns=clock_offset_ns,
        clock_error_ns=clock_error_ns,
        height=height,
        width=width,
        channels=3 if channels == 3 else 1,
        codec=codec,
        kept=kept,
        suppressed=suppressed,
        junk=junk,
        crc=images_crc(left_data, right_data),
    )
    sent, part = _encode_header(header, telemetry)
    return EncodedPair(sent, left_data, right_data, part, telemetry)


def decode(pair: EncodedPair) -> StereoPair:
    """Decompress both eyes to writable uint8 [H, W] or [H, W, 3] BGR, as the header says.

    Raises MalformedMessage("image", ...) for an eye that is not what the header declares; it is then not decompressed.
    """
    header = pair.header
    shape = (header.height, header.width, header.channels)
    decode_eye = _decode_jpeg if header.codec == "jpeg" else _decode_lz4
    try:
        return StereoPair(header, decode_eye(pair.left, shape), decode_eye(pair.right, shape), pair.telemetry)
    except ValueError as error:
        raise MalformedMessage("image", f"{header.name}: {error}") from error


def to_parts(pair: EncodedPair) -> list[bytes]:
    """Return the parts of the message: topic, header (`stream.pair.encode_header`), left image, right image.

    Nothing is copied.
    """
    return [TOPIC, pair.header_part, pair.left, pair.right]


def _pass_over(error: MalformedMessage) -> None:
    """Do nothing: the first receiver of the message has counted it."""


def from_parts(
    parts: Sequence[bytes | memoryview], refuse: Callable[[MalformedMessage], None] = _pass_over
) -> EncodedPair:
    """Return the pair in a message. Images are checked by size and checksum, but not decoded.

    refuse: called for each signal that is not valid; the pair comes without it. Its reasons are `stream.pair.SIGNAL_REASONS`.
    Raises MalformedMessage with a reason of `stream.pair.REASONS`, and nothing else.
    """
    if len(parts) != 4 or bytes(parts[0][: len(TOPIC) + 1]) != TOPIC:
        raise MalformedMessage("parts", f"expected 4 parts that begin with {TOPIC!r}, got {len(parts)}")
    sizes = [len(part) for part in parts]
    if sizes[1] > MAX_HEADER_BYTES or not all(1 <= size <= MAX_EYE_BYTES for size in sizes[2:]):
        raise MalformedMessage("size", f"header {sizes[1]}, left {sizes[2]}, right {sizes[3]} bytes are out of bounds")
    part, left, right = map(bytes, parts[1:])  # no copy if it is bytes already
    header, beside = _decode_header(part)
    if images_crc(left, right) != header.crc:
        raise MalformedMessage("crc", f"{header.name} was damaged on its way")
    return EncodedPair(header, left, right, part, NOTHING if beside is None else _telemetry(beside, refuse))


def _encode_header(header: Header, telemetry: Telemetry) -> tuple[Header, bytes]:
    """Return the header as a receiver will decode it, and its part of the message."""
    try:  # msgspec validates only what it decodes: a bad header is refused here, not by every receiver
        part = encode_header(header, telemetry)
        return _decode_fields(part[:-CHECKSUM_BYTES])[0], part
    except (msgspec.MsgspecError, OverflowError, BadSignal) as error:
        raise ValueError(f"the header of pair {header.seq} of {header.device!r} cannot be sent: {error}") from error


def _encode_eye(eye: Image | bytes, codec: Codec, quality: int) -> tuple[bytes, Shape]:
    if isinstance(eye, bytes):
        if codec != "jpeg":
            raise ValueError(f"a camera's own JPEG cannot be sent as {codec}: decode it first, or use codec jpeg")
        data, shape = eye, jpeg_shape(eye)
    else:
        shape = image_shape(eye)
        data = _compress(eye, codec, quality)
    if len(data) > MAX_EYE_BYTES:
        raise ValueError(f"an eye of {len(data)} bytes is larger than the {MAX_EYE_BYTES} that can be sent")
    return data, shape


def _compress(image: Image, codec: Codec, quality: int) -> bytes:
    if codec == "lz4":
        return bytes(lz4.block.compress(np.ascontiguousarray(image), store_size=False))
    if codec != "jpeg" or not 1 <= quality <= 100:
        raise ValueError(f"expected codec jpeg with quality 1-100, or lz4; got {codec!r}, {quality}")
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"OpenCV could not encode an image of shape {image.shape}")
    return data.tobytes()


def _decode_jpeg(data: bytes, shape: Shape) -> Image:
    if jpeg_shape(data) != shape:
        raise ValueError(f"the JPEG is {_describe(jpeg_shape(data))}, its header says {_describe(shape)}")
    colour = cv2.IMREAD_GRAYSCALE if shape[2] == 1 else cv2.IMREAD_COLOR
    try:  # pixels stay as the sensor gave them: an EXIF rotation would swap height and width
        image = cv2.imdecode(np.frombuffer(data, np.uint8), colour | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(f"OpenCV could not decode the JPEG: {error.err}") from error
    if image is None or image.dtype != np.uint8 or image.shape != _array_shape(shape):
        raise ValueError("OpenCV could not decode the JPEG")
    return np.asarray(image, np.uint8)


def _decode_lz4(data: bytes, shape: Shape) -> Image:
    size = shape[0] * shape[1] * shape[2]
    if size > LZ4_MAX_RATIO * len(data):
        raise ValueError(f"{len(data)} bytes of lz4 cannot hold an image of {_describe(shape)}")
    try:
        raw = lz4.block.decompress(data, uncompressed_size=size, return_bytearray=True)
    except lz4.block.LZ4BlockError as error:
        raise ValueError(f"the lz4 block does not decompress: {error}") from error
    if len(raw) != size:
        raise ValueError(f"the lz4 block holds {len(raw)} bytes, an image of {_describe(shape)} has {size}")
    return np.frombuffer(raw, np.uint8).reshape(_array_shape(shape))


def _decode_header(part: bytes) -> tuple[Header, HeaderWithTelemetry | None]:
    """Decode the header. Its checksum is verified first, so that a flipped bit is never taken for another header."""
    data = part[:-CHECKSUM_BYTES]
    if part[-CHECKSUM_BYTES:] != checksum(data):
        _check_version(part)  # the first wire version had no checksum
        raise MalformedMessage("crc", "a header was damaged on its way")
    try:
        return _decode_fields(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _check_version(data)
        raise MalformedMessage("header", str(error)) from error


def _decode_fields(data: bytes) -> tuple[Header, HeaderWithTelemetry | None]:
    if _any_version_decoder.decode(data).version == WIRE_VERSIONS[1]:
        beside = _telemetry_decoder.decode(data)
        return beside.header, beside
    return _decoder.decode(data), None


def _telemetry(beside: HeaderWithTelemetry, refuse: Callable[[MalformedMessage], None]) -> Telemetry:
    """Return what a message of wire version 3 has beside its images, without the signals that are not valid."""
    header = beside.header

    def refuse_signal(error: BadSignal) -> None:
        refuse(MalformedMessage(f"signal_{error.reason}", f"{header.name}: {error}"))

    signals = wire.unpack(beside.signals, header.left_ns, refuse_signal)
    return Telemetry(signals, beside.episode, beside.subject)


def _check_version(header: bytes) -> None:
    """Raise MalformedMessage if a header is of a wire version that is not read."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        version = _any_version_decoder.decode(header).version
        if version not in WIRE_VERSIONS:
            known = " and ".join(map(str, WIRE_VERSIONS))
            detail = f"the message has wire version {version}, this side reads {known}: update one of the two"
            raise MalformedMessage("version", detail)


def _array_shape(shape: Shape) -> tuple[int, ...]:
    return shape if shape[2] == 3 else shape[:2]


def _describe(shape: Shape) -> str:
    return f"{shape[1]}x{shape[0]} {'colour' if shape[2] == 3 else 'grey'}"


def images_crc(left: bytes, right: bytes) -> int:
    """Return the checksum of two encoded images that stands in their header."""
    return zlib_ng.crc32(right, zlib_ng.crc32(left))
