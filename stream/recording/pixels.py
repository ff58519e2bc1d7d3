"""Makes images that can be sent of the images that other tools record. Sizes are checked before anything is decoded.

JPEG stays as it is. What was recorded without loss stays without loss: raw pixels and PNG become pixels. WebP becomes a JPEG.
Images of 16 bits become 8 bits between the percentiles RANGE_PERCENT of the images so far, the same for both eyes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.image import MAX_EYE_BYTES, MAX_SIDE, Image, check_sides, jpeg_shape

FREE_PIXEL_BYTES = 1 << 20
MAX_PIXEL_RATIO = 1032
"""A PNG or WebP may have FREE_PIXEL_BYTES of pixels, and this many times its own size: deflate never expands further."""
JPEG_QUALITY = 92
RANGE_PERCENT = (1, 99)
_RANGE_PIXELS = 1 << 16
_MAX_WORD = 64

_PNG, _RIFF = b"\x89PNG\r\n\x1a\n", b"RIFF"

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
}
"""Of each encoding of raw pixels: bytes of a value, values of a pixel, and OpenCV's conversion to BGR."""
_ENCODINGS |= {
    f"bayer_{order.lower()}{8 * size}": (size, 1, getattr(cv2, f"COLOR_Bayer{order}2BGR"))
    for order in ("RGGB", "BGGR", "GBRG", "GRBG")
    for size in (1, 2)
}


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
    """Reads the images of one recording."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf
        """The range of the 16-bit images so far."""

    def read(self, content: Compressed | Raw) -> bytes | Image:
        """Return a JPEG file, or pixels, uint8 [H, W] or [H, W, 3] BGR, that share no memory with the message.

        Raises ValueError for an image that is damaged, out of bounds, or of a kind that is not read.
        """
        return self._raw(content) if isinstance(content, Raw) else self._compressed(content)

    def _compressed(self, content: Compressed) -> bytes | Image:
        data = bytes(content.data)
        if not 1 <= len(data) <= MAX_EYE_BYTES:
            raise ValueError(f"an image of {len(data)} bytes is out of bounds")
        if data.startswith(b"\xff\xd8\xff"):
            return data
        if data.startswith(_PNG):
            _check_work(data, *_png_sides(data))
            return self._plain(_decode(data, cv2.IMREAD_UNCHANGED))
        if data.startswith(_RIFF) and data[8:12] == b"WEBP":
            _check_work(data, *_webp_sides(data))
            return jpeg_of(self._plain(_decode(data, cv2.IMREAD_UNCHANGED)))
        raise ValueError(f"an image of format {content.format[:_MAX_WORD]!r} is not read; JPEG, PNG and WebP are")

    def _raw(self, content: Raw) -> Image:
        height, width, data = content.height, content.width, content.data
        if content.encoding not in _ENCODINGS:
            known = ", ".join(_ENCODINGS)
            raise ValueError(f"an image of encoding {content.encoding[:_MAX_WORD]!r} is not read; {known} are")
        size, channels, conversion = _ENCODINGS[content.encoding]
        row_bytes = size * channels * width
        step = content.step or row_bytes
        if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and step >= row_bytes):
            raise ValueError(f"an image of {width}x{height} pixels and {step} bytes a row is out of bounds")
        if len(data) != height * step:
            raise ValueError(f"an image of {height} rows of {step} bytes has {len(data)} bytes")
        rows = np.frombuffer(data, np.uint8).reshape(height, step)[:, :row_bytes]
        values = np.ascontiguousarray(rows).view(f"{'>' if content.is_big_endian else '<'}u{size}")
        image = values.reshape((height, width) if channels == 1 else (height, width, channels))
        if size == 2:
            image = self._eight_bits(image)
        if conversion is None:
            return np.array(image, np.uint8, order="C")
        if ("bayer" in content.encoding and min(height, width) < 2) or (channels == 2 and width % 2):
            raise ValueError(f"an image of {width}x{height} pixels cannot be {content.encoding}")
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), conversion), np.uint8)

    def _plain(self, image: NDArray[Any]) -> Image:
        """Return a decoded image with 8 bits and without transparency."""
        if image.dtype == np.uint16:
            image = self._eight_bits(image.view(np.uint16))
        if image.ndim == 3 and image.shape[2] == 4:
            image = image[..., :3]
        return np.array(image, np.uint8, order="C")

    def _eight_bits(self, image: NDArray[Any]) -> Image:
        """Return 16-bit values as 8 bits. The range grows with what the images show, so that none of them is black."""
        values = image.astype(np.uint16, copy=False)
        some = values.reshape(-1)[:: max(1, values.size // _RANGE_PIXELS)]
        low, high = np.percentile(some, RANGE_PERCENT)
        self._low, self._high = min(self._low, low), max(self._high, high)
        scaled = (np.arange(1 << 16) - self._low) * (255 / max(self._high - self._low, 1))
        return np.asarray(np.clip(scaled, 0, 255).astype(np.uint8)[values], np.uint8)


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
