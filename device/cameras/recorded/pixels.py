"""Image files become what can be sent: a JPEG as it is, or 8-bit pixels, upright."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from device.camera import BadShot, EyeImage
from stream.image import MAX_EYE_BYTES, Image, TooCostly, check_file, check_sides, jpeg_shape

SHARE = 0.005
"""This share of the pixels of the sample may be darker than black, and as many brighter than white."""
FULL_RANGE = 1 << 15
"""Where the bright pixels of 16-bit images are at least this, the images use their whole range."""
_UPRIGHT = 1
_POINTER = b"version https://git-lfs"
_ORIENTATION_TAG = 0x0112
_SHORT = 3


@dataclass(frozen=True, slots=True)
class Levels:
    """What becomes black and what becomes white in images of more than 8 bits; it stays the same over a recording."""

    black: float = 0.0
    white: float = 65280.0

    @classmethod
    def of(cls, images: Iterable[NDArray[Any]]) -> Self:
        """Return the levels that a sample of images needs: theirs, without the darkest and brightest 0.5 percent.

        16-bit images that use their whole range keep it, so that 256 steps become one.
        """
        values = [image.ravel()[:: max(1, image.size // 50_000)] for image in images]
        sample = np.concatenate(values).astype(np.float64) if values else np.empty(0)
        sample = sample[np.isfinite(sample)]
        if not sample.size:
            return cls()
        black, white = np.quantile(sample, [SHARE, 1 - SHARE])
        if all(part.dtype == np.uint16 for part in values) and white >= FULL_RANGE:
            return cls()
        return cls(float(black), float(max(white, black + 1e-9 * max(1.0, abs(black)))))

    def apply(self, image: NDArray[Any]) -> Image:
        """Return the image with 8 bits."""
        scaled = (image.astype(np.float32) - np.float32(self.black)) * np.float32(255 / (self.white - self.black))
        return np.asarray(np.nan_to_num(np.clip(scaled, 0, 255)), np.uint8)


def read_eye(path: Path, levels: Levels) -> EyeImage:
    """Return the image in a file, with the time 0. Raises BadShot, which names the file and says why it cannot be used.

    JPEG bytes are returned as they are. A JPEG that stands on its side or has four channels is decoded, like other formats.
    """
    data = _bytes_of(path)
    if data.startswith(b"\xff\xd8\xff"):
        channels, orientation = _jpeg_facts(data)
        if channels != 4 and orientation == _UPRIGHT:
            try:
                jpeg_shape(data)
            except ValueError as error:
                raise BadShot(f"{path}: {error}") from error
            return EyeImage(0, jpeg=data)
    image = _decoded(data, path)
    return EyeImage(0, pixels=np.asarray(image, np.uint8) if image.dtype == np.uint8 else levels.apply(image))


def deep_image(path: Path) -> NDArray[Any] | None:
    """Return the image in a file if it has more than 8 bits; None if it has not, or cannot be read."""
    if path.suffix.lower() in (".jpg", ".jpeg", ".webp", ".bmp") or not path.is_file():  # reading a pipe would wait
        return None
    try:
        image = _decoded(_bytes_of(path), path)
    except BadShot:
        return None
    return None if image.dtype == np.uint8 else image


def _bytes_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_EYE_BYTES:
            raise BadShot(f"{path} is larger than {MAX_EYE_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise BadShot(f"{path} cannot be read: {error.strerror}") from error
    if data.startswith(_POINTER):
        raise BadShot(f"{path} is only a pointer of Git LFS: `git lfs pull` brings the images")
    if not data:
        raise BadShot(f"{path} is empty")
    return data


def _decoded(data: bytes, path: Path) -> NDArray[Any]:
    """Return the pixels of a file, grey or BGR, upright, with as many bits as it has."""
    try:
        check_file(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    except TooCostly as error:
        raise BadShot(f"{path}: {error}") from error
    except cv2.error as error:
        raise BadShot(f"{path} does not decode: {error.err}") from error
    if image is None:
        raise BadShot(f"{path} is not an image that can be read")
    try:
        check_sides(*image.shape[:2])
    except ValueError as error:
        raise BadShot(f"{path}: {error}") from error
    return image


def _jpeg_facts(data: bytes) -> tuple[int, int]:
    """Return the number of channels of a JPEG and its EXIF orientation, 1 (upright) to 8; 0 channels if it has no frame."""
    orientation = _UPRIGHT
    for marker, body in _segments(data):
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = _orientation(body[6:])
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) > 5:
            return body[5], orientation
    return 0, orientation


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
        return _UPRIGHT

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], "little" if order == "little" else "big")

    first = number(4, 4)
    for entry in range(first + 2, first + 2 + 12 * number(first, 2), 12):
        if number(entry, 2) == _ORIENTATION_TAG and number(entry + 2, 2) == _SHORT:
            found = number(entry + 8, 2)
            return found if 1 <= found <= 8 else _UPRIGHT
        if entry > len(tiff):
            break
    return _UPRIGHT
