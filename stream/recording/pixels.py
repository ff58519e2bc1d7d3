"""Makes images that can be sent of the images that other tools record. Sizes are checked before anything is decoded.

A JPEG stays as it is, unless it stands on its side or has four channels. What was recorded without loss stays without loss: raw
pixels and PNG become pixels. WebP becomes a JPEG. More than 8 bits become 8 as `stream.recording.levels` says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.image import MAX_EYE_BYTES, MAX_SIDE, UPRIGHT, Image, check_sides, jpeg_orientation, jpeg_shape
from stream.recording.levels import Levels

FREE_PIXEL_BYTES = 1 << 20
MAX_PIXEL_RATIO = 1032
"""A PNG or WebP may have FREE_PIXEL_BYTES of pixels, and this many times its own size: deflate never expands further."""
JPEG_QUALITY = 92
_MAX_WORD = 64

_JPEG, _PNG, _RIFF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"

_ENCODINGS: dict[str, tuple[int, int, int | None]] = {
    "mono8": (1, 1, None),
    "8UC1": (1, 1, None),
    "bgr8": (1, 3, None),
    "8UC3": (1, 3, None),
    "rgb8": (1, 3, cv2.COLOR_RGB2BGR),
    "bgra8": (1, 4, cv2.COLOR_BGRA2BGR),
    "8UC4": (1, 4, cv2.COLOR_BGRA2BGR),
    "rgba8": (1, 4, cv2.COLOR_RGBA2BGR),
    "mono16": (2, 1, None),
    "16UC1": (2, 1, None),
    "bgr16": (2, 3, None),
    "16UC3": (2, 3, None),
    "rgb16": (2, 3, cv2.COLOR_RGB2BGR),
    "bgra16": (2, 4, cv2.COLOR_BGRA2BGR),
    "rgba16": (2, 4, cv2.COLOR_RGBA2BGR),
    "yuv422": (1, 2, cv2.COLOR_YUV2BGR_UYVY),
    "uyvy": (1, 2, cv2.COLOR_YUV2BGR_UYVY),
    "yuv422_yuy2": (1, 2, cv2.COLOR_YUV2BGR_YUY2),
    "yuyv": (1, 2, cv2.COLOR_YUV2BGR_YUY2),
    "nv12": (1, 1, cv2.COLOR_YUV2BGR_NV12),
    "nv21": (1, 1, cv2.COLOR_YUV2BGR_NV21),
    "i420": (1, 1, cv2.COLOR_YUV2BGR_I420),
    "yuv420": (1, 1, cv2.COLOR_YUV2BGR_I420),
    "yv12": (1, 1, cv2.COLOR_YUV2BGR_YV12),
    "32FC1": (4, 1, None),
}
"""Of each encoding of raw pixels: bytes of a value, values of a pixel, and OpenCV's conversion to BGR."""
_ENCODINGS |= {
    f"bayer_{order.lower()}{8 * size}": (size, 1, getattr(cv2, f"COLOR_Bayer{order}2BGR"))
    for order in ("RGGB", "BGGR", "GBRG", "GRBG")
    for size in (1, 2)
}
_PLANAR = frozenset({"nv12", "nv21", "i420", "yuv420", "yv12"})
"""Encodings whose colours are in half as many rows again below the grey image."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """An image file in a message. format: what the message says that it is; its first bytes decide."""

    format: str
    data: memoryview


@dataclass(frozen=True, slots=True)
class Raw:
    """Pixels in a message. step: bytes of a row."""

    encoding: str
    height: int
    width: int
    step: int
    data: memoryview
    is_big_endian: bool = False


class Pixels:
    """Reads the images of one recording.

    levels: returns the levels of its images of more than 8 bits, when one of them comes; by default the first one decides.
    as_sent: whether JPEG files are never decoded, because somebody knows their checksum.
    """

    def __init__(self, levels: Callable[[], Levels] | None = None, *, as_sent: bool = False) -> None:
        self._find_levels, self._as_sent = levels, as_sent
        self._levels: Levels | None = None

    def read(self, content: Compressed | Raw) -> bytes | Image:
        """Return a JPEG file, or pixels, uint8 [H, W] or [H, W, 3] BGR, that share no memory with the message.

        Raises ValueError for an image that is damaged, out of bounds, or of a kind that is not read.
        """
        if isinstance(content, Raw):
            return _coloured(self._eight_bits(_values(content)), content.encoding)
        image = _opened(content, as_sent=self._as_sent)
        if isinstance(image, bytes):
            return image
        plain = np.array(self._eight_bits(image), np.uint8, order="C")
        return plain if content.data[: len(_PNG)] == _PNG else jpeg_of(plain)

    def _eight_bits(self, image: NDArray[Any]) -> Image:
        if image.dtype == np.uint8:
            return np.asarray(image, np.uint8)
        if self._levels is None:
            self._levels = Levels.of([image]) if self._find_levels is None else self._find_levels()
        return self._levels.apply(image)


def deep_image(content: Compressed | Raw) -> NDArray[Any] | None:
    """Return an image with the bits that it was recorded with; None if these are 8, or if it cannot be read."""
    try:
        image = _values(content) if isinstance(content, Raw) else _opened(content)
    except ValueError:
        return None
    return None if isinstance(image, bytes) or image.dtype == np.uint8 else image


def _opened(content: Compressed, *, as_sent: bool = False) -> bytes | NDArray[Any]:
    """Return a JPEG file, or the pixels of another one, grey or BGR, upright, with the bits that they have."""
    data = bytes(content.data)
    if not 1 <= len(data) <= MAX_EYE_BYTES:
        raise ValueError(f"an image of {len(data)} bytes is out of bounds")
    if data.startswith(_JPEG):
        if as_sent or (jpeg_shape(data, channels=(1, 3, 4))[2] != 4 and jpeg_orientation(data) == UPRIGHT):
            return data
        return _decode(data, cv2.IMREAD_ANYCOLOR)
    if data.startswith(_PNG):
        _check_work(data, *_png_sides(data))
    elif data.startswith(_RIFF) and data[8:12] == b"WEBP":
        _check_work(data, *_webp_sides(data))
    else:
        raise ValueError(f"an image of format {content.format[:_MAX_WORD]!r} is not read; JPEG, PNG and WebP are")
    image = _decode(data, cv2.IMREAD_UNCHANGED)
    return image[..., :3] if image.ndim == 3 and image.shape[2] == 4 else image


def _values(content: Raw) -> NDArray[Any]:
    """Return the values of raw pixels, [H, W] or [H, W, C], as they were recorded."""
    height, width, data = content.height, content.width, content.data
    if content.encoding not in _ENCODINGS:
        hint = "record it as bgr8, mono8, mono16 or another of docs/recordings.md, or as JPEG or PNG"
        raise ValueError(f"an image of encoding {content.encoding[:_MAX_WORD]!r} is not read: {hint}")
    size, channels, _ = _ENCODINGS[content.encoding]
    row_bytes = size * channels * width
    step = content.step or row_bytes
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and step >= row_bytes):
        raise ValueError(f"an image of {width}x{height} pixels and {step} bytes a row is out of bounds")
    is_halved = channels == 2 or content.encoding in _PLANAR  # its colours have half the resolution
    is_small = min(height, width) < 2 and "bayer" in content.encoding
    if is_small or (is_halved and width % 2) or (content.encoding in _PLANAR and height % 2):
        raise ValueError(f"an image of {width}x{height} pixels cannot be {content.encoding}")
    height += height // 2 if content.encoding in _PLANAR else 0
    if len(data) != height * step:
        raise ValueError(f"an image of {height} rows of {step} bytes has {len(data)} bytes")
    rows = np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(height, step)[:, :row_bytes])
    values = rows.view(f"{'>' if content.is_big_endian else '<'}{'f' if size == 4 else 'u'}{size}")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    return values.reshape((height, width) if channels == 1 else (height, width, channels))


def _coloured(image: Image, encoding: str) -> Image:
    """Return raw pixels of 8 bits as grey or BGR."""
    conversion = _ENCODINGS[encoding][2]
    if conversion is None:
        return np.array(image, np.uint8, order="C")
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), conversion), np.uint8)


def with_equal_channels(left: bytes | Image, right: bytes | Image) -> tuple[bytes | Image, bytes | Image]:
    """Return two images, of which a grey one beside one with colour gets three equal channels, as a file or as pixels.

    Raises ValueError for a JPEG that is damaged.
    """
    are_grey = [jpeg_shape(eye)[2] == 1 if isinstance(eye, bytes) else eye.ndim == 2 for eye in (left, right)]
    if are_grey == [True, False]:
        return _in_three_channels(left), right
    return left, _in_three_channels(right) if are_grey == [False, True] else right


def _in_three_channels(image: bytes | Image) -> bytes | Image:
    pixels = _decode(image, cv2.IMREAD_GRAYSCALE) if isinstance(image, bytes) else image
    coloured = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), np.uint8)
    return jpeg_of(coloured) if isinstance(image, bytes) else coloured


def halves(image: bytes | Image, layout: str) -> tuple[bytes | Image, bytes | Image]:
    """Return the left and the right eye of an image that holds both.

    layout: "sbs", side by side, or "tb", the left eye over the right one. A JPEG becomes two of quality JPEG_QUALITY.
    Raises ValueError for an image that is damaged or has no two equal halves.
    """
    if isinstance(image, bytes):
        colour = cv2.IMREAD_GRAYSCALE if jpeg_shape(image)[2] == 1 else cv2.IMREAD_COLOR
        pixels = _decode(image, colour | cv2.IMREAD_IGNORE_ORIENTATION)
    else:
        pixels = image
    axis = 1 if layout == "sbs" else 0
    if pixels.shape[axis] % 2:
        raise ValueError(f"an image of {pixels.shape[1]}x{pixels.shape[0]} pixels has no two equal halves")
    left, right = (np.array(half, np.uint8, order="C") for half in np.split(pixels, 2, axis=axis))
    return (jpeg_of(left), jpeg_of(right)) if isinstance(image, bytes) else (left, right)


def jpeg_of(image: Image) -> bytes:
    """Return an image as a JPEG file of quality JPEG_QUALITY."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _decode(data: bytes, flags: int) -> NDArray[Any]:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f"OpenCV could not decode the image: {error.err}") from error
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise ValueError("OpenCV could not decode the image")
    return image


def _check_work(data: bytes, height: int, width: int, pixel_bytes: int) -> None:
    check_sides(height, width)
    if height * width * pixel_bytes > FREE_PIXEL_BYTES + MAX_PIXEL_RATIO * len(data):
        raise ValueError(f"{len(data)} bytes are too few for an image of {width}x{height} pixels")


def _png_sides(data: bytes) -> tuple[int, int, int]:
    """Return the height, the width and the bytes of a pixel that a PNG declares."""
    if len(data) < 26:
        raise ValueError("the PNG is cut off")
    width, height, bits, colours = struct.unpack_from(">IIBB", data, 16)
    values = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colours, 4)
    return height, width, max(1, values * bits // 8)


def _webp_sides(data: bytes) -> tuple[int, int, int]:
    """Return the height, the width and the bytes of a pixel that a WebP declares (RFC 9649, section 2)."""
    if len(data) < 30:
        raise ValueError("the WebP is cut off")
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", data, 26))
    return height, width, 3
