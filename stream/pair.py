"""A stereo pair: encoded, as it is sent and stored, and decoded.

`decode` turns an `EncodedPair` into a `StereoPair` as late as possible, so that a pair that nobody needs is never decompressed.
Images are uint8 in OpenCV's channel order, [H, W] grey or [H, W, 3] **BGR**, from the camera to the learner's batch. The only
conversion to RGB happens in the batch, on the compute device, where it costs nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
from zlib_ng import zlib_ng

from stream.image import MAX_SIDE, Image
from stream.signals import signal, wire
from stream.signals.signal import NOTHING, Telemetry

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Pattern of the name of a rig or a consumer; it has to match the whole name."""
WIRE_VERSIONS = (2, 3)
"""Those that are read. A pair with nothing beside its images is sent in the first one, which older learners read too."""
CHECKSUM_BYTES = 4
SIGNAL_REASONS = tuple(f"signal_{reason}" for reason in signal.REASONS)
"""The reasons for which a signal is left out of a message, which is received all the same (`stream.signals.signal.REASONS`)."""
REASONS = ("parts", "size", "header", "version", "crc", "image", *SIGNAL_REASONS)
"""The reasons for which a message is refused: wrong number of parts, too many bytes, a header that does not decode, another
wire version, a wrong checksum, an image that is not what its header declares; and those for a signal alone.
"""

_encoder = msgspec.msgpack.Encoder()

Codec = Literal["jpeg", "lz4"]
Kept = Literal["new", "silence", "audit"]
"""Why a pair was kept: it shows something new, or no pair was kept for too long, or it was chosen at random among the
suppressed."""

Device = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
Epoch = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """The description that is sent with the two images. It is validated when it is received.

    The identity of a pair is `(device, epoch, seq)`. The device begins a new `epoch` when it begins to count from 0 again. `seq`
    counts the kept pairs of an epoch without holes, so a missing number is a missing pair. `suppressed` and `junk` count the
    pairs that were left out since the last kept one: those seen before, and those that were dark or covered. A receiver can
    therefore compute the rate at which the camera took pairs.
    """

    version: Literal[2] = 2
    device: Device
    epoch: Epoch
    seq: Annotated[int, msgspec.Meta(ge=0, lt=(1 << 63) - 1)]
    """Number of the pair in its epoch; the upper bound leaves room for the number after it."""
    left_ns: Count
    """Capture time of the left eye, nanoseconds since 1970 by the device's clock."""
    right_ns: Count
    clock_offset_ns: int = 0
    """Device clock minus true time, as the device estimates it."""
    clock_error_ns: Count | None = None
    """Largest error of clock_offset_ns; None if it is not known."""
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
        """Right minus left capture time, in nanoseconds; negative if the right image was taken first."""
        return self.right_ns - self.left_ns

    @property
    def name(self) -> str:
        """The identity in short form, for messages to people: device/epoch/seq, with 8 digits of the epoch."""
        return f"{self.device}/{self.epoch[:8]}/{self.seq}"


class HeaderWithTelemetry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """The description in wire version 3: the header of version 2, and what the rig knows beside the images."""

    version: Literal[3] = 3
    header: Header
    episode: wire.Name
    subject: wire.Name
    signals: list[msgspec.Raw]
    """Each is a `stream.signals.wire.SignalParts`; they are decoded one by one, so that a bad one costs no other."""


@dataclass(frozen=True, slots=True)
class StereoPair:
    """Two images taken at one moment: uint8 [H, W] or [H, W, 3] BGR, both of the same shape."""

    header: Header
    left: Image
    right: Image
    telemetry: Telemetry = NOTHING


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair with its images encoded, as it is sent; `stream.codec` encodes and decodes it.

    Spool, recording and store keep these bytes as they are.

    Two pairs are equal if their headers, images and telemetry are. Raises BadSignal for telemetry that cannot be sent.
    """

    header: Header
    left: bytes
    right: bytes
    header_part: bytes = field(default=b"", compare=False, repr=False)
    """The header as it was received or first encoded (see `encode_header`); encoded here if it is not given."""
    telemetry: Telemetry = field(default=NOTHING, repr=False)
    """The signals since the pair before, and to which episode and subject the pair belongs."""

    def __post_init__(self) -> None:
        if not self.header_part:
            object.__setattr__(self, "header_part", encode_header(self.header, self.telemetry))

    @property
    def size_bytes(self) -> int:
        """The bytes of header and images."""
        return len(self.header_part) + len(self.left) + len(self.right)


def encode_header(header: Header, telemetry: Telemetry = NOTHING) -> bytes:
    """Encode the header as a part of a message: msgpack, then the CRC-32 of these bytes (CHECKSUM_BYTES bytes, big-endian).

    The header holds the checksum of the images, so this one covers the whole pair. With telemetry it has wire version 3, else 2.
    Raises BadSignal for telemetry that cannot be sent.
    """
    if telemetry:
        signal.check_label("episode", telemetry.episode)
        signal.check_label("subject", telemetry.subject)
        signals = wire.pack(telemetry.signals, header.left_ns)
        whole = HeaderWithTelemetry(
            header=header, episode=telemetry.episode, subject=telemetry.subject, signals=signals
        )
        data = _encoder.encode(whole)
    else:
        data = _encoder.encode(header)
    return data + checksum(data)


def checksum(data: bytes | memoryview) -> bytes:
    """Return the CRC-32 of an encoded header."""
    return zlib_ng.crc32(data).to_bytes(CHECKSUM_BYTES)
