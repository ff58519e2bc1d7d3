"""A stereo pair: encoded, as it is sent and stored, and decoded.

`decode` turns an `EncodedPair` into a `StereoPair` at the last moment, so that a pair that nobody needs is never decompressed.
Images are uint8 in OpenCV's channel order, [H, W] grey or [H, W, 3] **BGR**, from the camera to the learner's batch. The one flip
to RGB happens there, on the compute device, where it costs nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
from zlib_ng import zlib_ng

from stream.image import MAX_SIDE, Image

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Of a rig or a consumer; the whole name has to match."""
WIRE_VERSION = 2
CHECKSUM_BYTES = 4
REASONS = ("parts", "size", "header", "version", "crc", "image")
"""The reasons for which a message is refused: wrong number of parts, too many bytes, a header that does not decode, another
wire version, a wrong checksum, an image that is not what its header declares.
"""

_encoder = msgspec.msgpack.Encoder()

Codec = Literal["jpeg", "lz4"]
Kept = Literal["new", "silence", "audit"]
"""Why a pair was kept: it shows something new; no pair was kept for too long; it is a random sample of the suppressed ones."""

Device = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
Epoch = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """The description that is sent with the two images; validated when it is received.

    The identity is `(device, epoch, seq)`. `epoch` is new whenever the device starts a new count; `seq` counts kept pairs from 0
    without holes, so that a hole is a loss. `suppressed` counts the pairs that were left out as seen before since the last kept
    one, `junk` those that were left out as dark or covered: rates and times survive dedupe.
    """

    version: Literal[2] = 2
    device: Device
    epoch: Epoch
    seq: Annotated[int, msgspec.Meta(ge=0, lt=(1 << 63) - 1)]
    """The number after the last pair must fit too."""
    left_ns: Count
    """Capture time of the left eye, nanoseconds since 1970 by the device's clock."""
    right_ns: Count
    clock_offset_ns: int = 0
    """Device clock minus true time, as the device estimates it."""
    clock_error_ns: Count | None = None
    """Bound of that estimate's error; None where nothing is known."""
    height: _Side
    width: _Side
    channels: Literal[1, 3]
    codec: Codec
    kept: Kept = "new"
    suppressed: Count = 0
    junk: Count = 0
    crc: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    """zlib.crc32 over the left, then the right encoded image."""

    @property
    def skew_ns(self) -> int:
        """Right minus left capture time."""
        return self.right_ns - self.left_ns

    @property
    def name(self) -> str:
        """The identity as a person reads it in a message."""
        return f"{self.device}/{self.epoch[:8]}/{self.seq}"


@dataclass(frozen=True, slots=True)
class StereoPair:
    """Two images taken at one moment: uint8 [H, W] or [H, W, 3] BGR, both of the same shape."""

    header: Header
    left: Image
    right: Image


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair as it travels; `stream.codec` makes and reads it. Spool, recording and store keep these bytes as they are.

    Two pairs are equal where their headers and images are.
    """

    header: Header
    left: bytes
    right: bytes
    header_part: bytes = field(default=b"", compare=False, repr=False)
    """The header as it was received or first encoded (see `encode_header`); made here where it is not given."""

    def __post_init__(self) -> None:
        if not self.header_part:
            object.__setattr__(self, "header_part", encode_header(self.header))


def encode_header(header: Header) -> bytes:
    """The header's part of a message: msgpack, and behind it the CRC-32 of that in CHECKSUM_BYTES bytes, big-endian.

    The header holds the checksum of the images, so this one covers the whole pair.
    """
    data = _encoder.encode(header)
    return data + checksum(data)


def checksum(data: bytes | memoryview) -> bytes:
    """CRC-32 of an encoded header."""
    return zlib_ng.crc32(data).to_bytes(CHECKSUM_BYTES)
