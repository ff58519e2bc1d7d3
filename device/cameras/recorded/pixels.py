"""Image files become what can be sent: a JPEG as it is, or 8-bit pixels, upright."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from device.camera import BadShot, EyeImage
from stream.image import MAX_EYE_BYTES, UPRIGHT, TooCostly, check_file, check_sides, jpeg_orientation, jpeg_shape
from stream.recording.levels import Levels

_POINTER = b"version https://git-lfs"


def read_eye(path: Path, levels: Levels) -> EyeImage:
    """Return the image in a file, with the time 0. Raises BadShot, which names the file and says why it cannot be used.

    JPEG bytes are returned as they are. A JPEG that stands on its side or has four channels is decoded, like other formats.
    """
    data = _bytes_of(path)
    if data.startswith(b"\xff\xd8\xff"):
        try:
            channels = jpeg_shape(data, channels=(1, 3, 4))[2]
        except ValueError as error:
            raise BadShot(f"{path}: {error}") from error
        if channels != 4 and jpeg_orientation(data) == UPRIGHT:
            return EyeImage(0, jpeg=data)
    image = _decoded(data, path)
    return EyeImage(0, pixels=np.asarray(image, np.uint8) if image.dtype == np.uint8 else levels.apply(image))


def deep_image(path: Path) -> NDArray[Any] | None:
    """Return the image in a file if it has more than 8 bits; None if it has not, or cannot be read."""
    if path.suffix.lower() in (".jpg", ".jpeg", ".webp", ".bmp"):
        return None
    try:
        image = _decoded(_bytes_of(path), path)
    except BadShot:
        return None
    return None if image.dtype == np.uint8 else image


def _bytes_of(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait
            raise BadShot(f"{path} is no regular file")
        if status.st_size > MAX_EYE_BYTES:
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
