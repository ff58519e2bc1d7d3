"""Bounds for images, and what a JPEG file declares. This module needs NumPy only.

Images are uint8 in OpenCV's channel order, [H, W] grey or [H, W, 3] **BGR**, from the camera to the learner's batch.

What a JPEG declares is read from its markers without decoding it. The work of decoding is bounded there: a file of some hundred
bytes can declare 8192x8192 pixels, or the same scan many times over. Markers, scans and progression are those of ITU-T T.81,
annexes B, F and G.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAX_SIDE = 8192
"""Largest accepted width or height, in pixels."""
MAX_EYE_BYTES = 64 << 20
"""Largest accepted encoded image, in bytes."""

MAX_JPEG_SEGMENTS = 1024
MAX_JPEG_SCANS = 32
"""Progressive files have about ten; thousands of empty scans are a known way to keep a decoder busy for minutes."""
MAX_JPEG_VISITS = 12
"""Scans of one component. Common encoders need six; each costs time for every block, however few bytes it has."""

_SEQUENTIAL_BITS, _DC_BITS = 2, 1
"""Fewest bits of a block: in a sequential scan a code for DC and an end of block, in a progressive scan of DC one bit."""
_RUN_BITS, _RUN_BLOCKS = 15, 32767
"""In a progressive scan of AC, this many bits can say of so many blocks that they are empty."""
_UNSENT = 255
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends a scan's data: no stuffed zero, restart or fill byte."""
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
UPRIGHT = 1
"""The EXIF orientation of an image that is stored as it is seen."""
_ORIENTATION_TAG = 0x0112
_SHORT = 3

Image = NDArray[np.uint8]
Shape = tuple[int, int, int]
"""Height, width, channels (1 or 3)."""


class TooCostly(ValueError):
    """An image that declares more than its bytes can hold, or than can be sent: decoding it is refused."""


def check_sides(height: int, width: int) -> None:
    """Raise TooCostly for a height or width, in pixels, that cannot be sent."""
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise TooCostly(f"an image of {width}x{height} pixels cannot be sent: sides are 1 to {MAX_SIDE}")


def image_shape(image: Image) -> Shape:
    """Return the height, width and channels of pixels. Raises ValueError if they are no image that can be sent."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"expected a uint8 image [H, W] or [H, W, 3], got {image.dtype} {list(image.shape)}")
    check_sides(image.shape[0], image.shape[1])
    return image.shape[0], image.shape[1], 3 if image.ndim == 3 else 1


@dataclass(slots=True)
class _Component:
    """One component of a frame. blocks: its 8x8 blocks in a scan of its own; in_mcus: those in a scan with others."""

    blocks: int
    in_mcus: int
    lowest: bytearray = field(default_factory=lambda: bytearray([_UNSENT] * 64))
    """Of each coefficient in zigzag order, the lowest bit that was sent."""
    visits: int = 0


@dataclass(slots=True)
class _Frame:
    shape: Shape
    is_progressive: bool
    components: dict[int, _Component]


def jpeg_shape(data: bytes, *, channels: tuple[int, ...] = (1, 3)) -> Shape:
    """Return the height, width and channels that a complete JPEG file declares. channels: the numbers of them that are read.

    Bytes behind its end are tolerated: capture buffers are padded, and telephones append films. Raises ValueError for a JPEG that
    cannot be sent: data that is no JPEG, is cut off, is larger than MAX_SIDE, has not 8 bits and these channels, uses arithmetic
    or lossless coding, has too few bytes for its size, or sends a coefficient twice.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        raise ValueError("it is not a JPEG: no SOI marker at its start")
    frame: _Frame | None = None
    at, scans = 2, 0
    for _ in range(MAX_JPEG_SEGMENTS):
        marker, at = _marker(data, at)
        if marker == 0xD9:
            return _whole(frame)
        body = data[at + 2 : at + max(2, int.from_bytes(data[at : at + 2]))]
        at += 2 + len(body)
        if marker in (*_SEQUENTIAL, _PROGRESSIVE):
            if frame is not None:
                raise ValueError("the JPEG has more than one frame")
            frame = _read_frame(body, channels, is_progressive=marker == _PROGRESSIVE)
        elif marker == 0xDA:
            scans += 1
            if frame is None or scans > MAX_JPEG_SCANS:
                raise TooCostly(f"the JPEG has more than {MAX_JPEG_SCANS} scans, or one before its frame")
            end = _MARKER_IN_SCAN.search(data, at)
            if end is None:
                break
            _read_scan(frame, body, end.start() - at)
            at = end.start()
        elif marker < 0xC4 or marker in (0xC5, 0xC6, 0xC7, *range(0xC9, 0xCC), *range(0xCD, 0xD9)):
            raise ValueError("the JPEG has no frame of a kind we read (baseline or progressive) at its start")
    raise ValueError(f"the JPEG is cut off: no EOI marker within {MAX_JPEG_SEGMENTS} segments")


def _marker(data: bytes, at: int) -> tuple[int, int]:
    """Return the marker at a position, and the position behind it; fill bytes before it are skipped."""
    begin = at
    while data[at : at + 2] == b"\xff\xff" and at - begin < MAX_JPEG_SEGMENTS:
        at += 1
    if len(data) < at + 2:
        raise ValueError("the JPEG is cut off: no EOI marker at its end")
    if data[at] != 0xFF:
        raise ValueError("the JPEG is damaged: no marker behind a segment")
    return data[at + 1], at + 2


def _read_frame(body: bytes, known: tuple[int, ...], *, is_progressive: bool) -> _Frame:
    """Read a SOF (start of frame) segment."""
    if len(body) < 6:
        raise ValueError("the JPEG is cut off in its frame header")
    precision, height, width, channels = struct.unpack_from(">BHHB", body)
    if precision != 8 or channels not in known:
        raise ValueError(f"the JPEG has {channels} channels of {precision} bits; 1 or 3 of 8 bits can be sent")
    check_sides(height, width)
    rows = [(body[at], body[at + 1] >> 4, body[at + 1] & 15) for at in range(6, len(body) - 2, 3)]
    if len(rows) != channels or not all(1 <= side <= 4 for row in rows for side in row[1:]):
        raise ValueError("the JPEG has a damaged frame header")
    wide, high = max(row[1] for row in rows), max(row[2] for row in rows)
    mcus = _parts(width, 8 * wide) * _parts(height, 8 * high)
    components = {
        name: _Component(_parts(width * h, 8 * wide) * _parts(height * v, 8 * high), mcus * h * v)
        for name, h, v in rows
    }
    return _Frame((height, width, channels), is_progressive, components)


def _read_scan(frame: _Frame, body: bytes, data_bytes: int) -> None:
    """Check a SOS (start of scan) segment, which so many bytes of coded data follow, against what the scans before have sent."""
    count = body[0] if body else 0
    chosen = [frame.components.get(name) for name in body[1 : 1 + 2 * count : 2]]
    if len(body) != 4 + 2 * count or not chosen or None in chosen:
        raise ValueError("the JPEG has a damaged scan header")
    components = [component for component in chosen if component is not None]
    first, last, bits = (*body[-3:-1], body[-1]) if frame.is_progressive else (0, 63, 0)
    before, now = bits >> 4, bits & 15
    if frame.is_progressive and (first > last or last > 63 or (last > 0 if first == 0 else count > 1)):
        raise ValueError("the JPEG has a damaged scan header")
    for component in components:
        component.visits += 1
        if component.visits > MAX_JPEG_VISITS or set(component.lowest[first : last + 1]) != {before or _UNSENT}:
            raise TooCostly("the JPEG sends coefficients more than once, or out of order")
        component.lowest[first : last + 1] = bytes([now]) * (last + 1 - first)
    if before and now != before - 1:
        raise ValueError("the JPEG has a damaged scan header")
    blocks = sum(component.in_mcus if count > 1 else component.blocks for component in components)
    if 8 * data_bytes < _fewest_bits(blocks, is_progressive=frame.is_progressive, first=first):
        height, width, _ = frame.shape
        raise TooCostly(f"the JPEG is cut off: {data_bytes} bytes of a scan cannot hold {width}x{height} pixels")


def _fewest_bits(blocks: int, *, is_progressive: bool, first: int) -> int:
    """Return the number of bits that no scan of so many blocks goes below. first: its first coefficient."""
    if not is_progressive:
        return _SEQUENTIAL_BITS * blocks
    return _DC_BITS * blocks if first == 0 else _RUN_BITS * blocks // _RUN_BLOCKS


def _whole(frame: _Frame | None) -> Shape:
    """Return the shape of a frame whose coefficients have all come. Raises ValueError for others."""
    if frame is None:
        raise ValueError("the JPEG has no frame of a kind we read (baseline or progressive) at its start")
    if any(any(component.lowest) for component in frame.components.values()):
        raise ValueError("the JPEG is cut off: a scan is missing")
    return frame.shape


def _parts(whole: int, part: int) -> int:
    """Return how many parts of this size cover the whole."""
    return -(-whole // part)


def check_file(data: bytes) -> None:
    """Raise TooCostly for a PNG, WebP, BMP or JPEG file that declares more than its bytes can hold, or than can be sent.

    Anything else may be damaged or of another kind: decoding it finds that out.
    """
    if data.startswith(b"\xff\xd8\xff"):
        try:
            jpeg_shape(data, channels=(1, 3, 4))
        except TooCostly:
            raise
        except ValueError:
            return
    elif sides := _declared_sides(data[:30].ljust(30, b"\0")):
        check_sides(*sides)


def _declared_sides(head: bytes) -> tuple[int, int] | None:
    """Return the height and width in the first 30 bytes of a PNG (its section 11.2.2), WebP (RFC 9649) or BMP file."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return int.from_bytes(head[20:24]), int.from_bytes(head[16:20])
    if head.startswith(b"BM") and head[14] == 12:  # the header of OS/2
        return int.from_bytes(head[20:22], "little"), int.from_bytes(head[18:20], "little")
    if head.startswith(b"BM"):
        return abs(int.from_bytes(head[22:26], "little", signed=True)), int.from_bytes(head[18:22], "little")
    if not (head.startswith(b"RIFF") and head[8:12] == b"WEBP"):
        return None
    match head[12:16]:
        case b"VP8 ":
            return int.from_bytes(head[28:30], "little") & 0x3FFF, int.from_bytes(head[26:28], "little") & 0x3FFF
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
        case b"VP8X":
            return int.from_bytes(head[27:30], "little") + 1, int.from_bytes(head[24:27], "little") + 1
    return None


def jpeg_orientation(data: bytes) -> int:
    """Return the EXIF orientation of a JPEG, 1 (UPRIGHT) to 8; UPRIGHT if it says nothing or nonsense."""
    orientation = UPRIGHT
    for marker, body in _segments(data):
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = _orientation(body[6:])
    return orientation


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker and the content of each segment before the first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:
            at += 1  # a fill byte
            continue
        if data[at + 1] == 0xDA:
            return
        size = int.from_bytes(data[at + 2 : at + 4])
        yield data[at + 1], data[at + 4 : at + 2 + size]
        at += 2 + max(2, size)


def _orientation(tiff: bytes) -> int:
    """Return the orientation in an EXIF block, and 1 if it says nothing or nonsense. TIFF 6.0, section 2."""
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(tiff[:4])
    if order is None:
        return UPRIGHT

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], "little" if order == "little" else "big")

    first = number(4, 4)
    for entry in range(first + 2, first + 2 + 12 * number(first, 2), 12):
        if number(entry, 2) == _ORIENTATION_TAG and number(entry + 2, 2) == _SHORT:
            found = number(entry + 8, 2)
            return found if 1 <= found <= 8 else UPRIGHT
        if entry > len(tiff):
            break
    return UPRIGHT
