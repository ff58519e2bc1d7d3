"""Recordings as cameras: two folders of images, two videos, one side-by-side video.

A file says nothing about when its image was taken, so a shot's time is start + index / fps: the same files give the
same times, and with them the same verdicts of dedupe, at whatever speed they are played.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from itertools import count, zip_longest
from pathlib import Path

import cv2
import numpy as np

from device.camera import BadShot, CameraError, Eye, Shot
from stream.pair import MAX_EYE_BYTES, Image

FOLDER_FPS = 10.0
"""The rate a folder is played at where none is asked for; KITTI's."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})

Picture = Image | bytes
"""Pixels, or a JPEG file as it is."""
Film = Callable[[], Iterator[tuple[Picture, Picture] | BadShot]]
"""Plays a recording once, from its beginning."""

log = logging.getLogger(__name__)


class FilmCamera:
    """A recording played as a camera, once or endlessly.

    The first readable pair is looked at when the camera is made, so that a recording that cannot be used is refused
    before anything is sent: raises CameraError.
    """

    def __init__(
        self, name: str, film: Film, *, fps: float | None, rate_fps: float, repeat: bool, start_ns: int | None
    ) -> None:
        self.fps = fps
        self._film = film
        self._period_ns = 1e9 / rate_fps
        self._repeat = repeat
        self._start_ns = start_ns
        self._check_first(name)

    def __iter__(self) -> Iterator[Shot | BadShot]:
        """Shots at start + index / rate, the start being now where none was given; when it repeats, time goes on."""
        start_ns = time.time_ns() if self._start_ns is None else self._start_ns
        index = count()
        while True:
            for pictures in self._film():
                captured_ns = start_ns + round(next(index) * self._period_ns)
                yield pictures if isinstance(pictures, BadShot) else _shot(pictures, captured_ns)
            if not self._repeat:
                return

    def close(self) -> None:
        """Nothing to free: only a running iteration holds files, and it closes them itself."""

    def _check_first(self, name: str) -> None:
        for pictures in self._film():
            try:
                left, right = self._shapes(pictures)
            except BadShot:
                continue
            if left != right:
                raise CameraError(
                    f"{name}: left is {_said(left)} and right is {_said(right)}; both eyes need one size: "
                    "crop or scale one of them first"
                )
            return
        raise CameraError(f"{name}: not one readable pair in it")

    def _shapes(self, pictures: tuple[Picture, Picture] | BadShot) -> tuple[tuple[int, int, int], ...]:
        if isinstance(pictures, BadShot):
            raise pictures
        shot = _shot(pictures, 0)
        return shot.left.shape(), shot.right.shape()


def open_folders(
    left: Path, right: Path, *, rate_fps: float | None = None, repeat: bool = False, start_ns: int | None = None
) -> FilmCamera:
    """Two folders with the same file names, in whose order time runs; JPEG files are forwarded untouched.

    Raises CameraError where a folder is missing or empty, or their names differ.
    """
    names, others = _image_names(left), _image_names(right)
    if names != others:
        odd = min(set(names) ^ set(others))
        where = left if odd in set(names) else right
        raise CameraError(
            f"{left} has {len(names)} images and {right} has {len(others)}; they need the same file names, "
            f"but {odd} is only in {where}"
        )

    def film() -> Iterator[tuple[Picture, Picture] | BadShot]:
        for name in names:
            try:
                yield _read(left / name), _read(right / name)
            except BadShot as bad:
                yield bad

    return FilmCamera(
        f"dir:{left},{right}",
        film,
        fps=None,
        rate_fps=rate_fps or FOLDER_FPS,
        repeat=repeat,
        start_ns=start_ns,
    )


def open_videos(
    left: Path, right: Path, *, rate_fps: float | None = None, repeat: bool = False, start_ns: int | None = None
) -> FilmCamera:
    """Two videos whose frames belong together by number; the shorter one ends it. Raises CameraError."""
    fps = _video_fps(left)
    _video_fps(right)

    def film() -> Iterator[tuple[Picture, Picture] | BadShot]:
        for one, other in zip_longest(_frames(left), _frames(right)):
            if one is None or other is None:
                log.warning(
                    "unequal videos: %s ends first, the other's rest is left out", left if one is None else right
                )
                return
            yield one, other

    return FilmCamera(
        f"video:{left},{right}",
        film,
        fps=fps,
        rate_fps=rate_fps or fps or FOLDER_FPS,
        repeat=repeat,
        start_ns=start_ns,
    )


def open_side_by_side(
    path: Path, *, rate_fps: float | None = None, repeat: bool = False, start_ns: int | None = None
) -> FilmCamera:
    """One video with the left eye in the left half of each frame. Raises CameraError."""
    fps = _video_fps(path)

    def film() -> Iterator[tuple[Picture, Picture] | BadShot]:
        for frame in _frames(path):
            middle = frame.shape[1] // 2
            yield frame[:, :middle], frame[:, middle:]  # an odd width makes unequal eyes, which is refused

    return FilmCamera(
        f"sbs:{path}",
        film,
        fps=fps,
        rate_fps=rate_fps or fps or FOLDER_FPS,
        repeat=repeat,
        start_ns=start_ns,
    )


def _image_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise CameraError(f"no folder {folder}: expected dir:LEFT,RIGHT, two folders of images")
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not names:
        raise CameraError(f"{folder} holds no images (of {', '.join(sorted(SUFFIXES))})")
    return names


def _read(path: Path) -> Picture:
    try:
        if path.stat().st_size > MAX_EYE_BYTES:
            raise BadShot(f"{path} is larger than {MAX_EYE_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise BadShot(f"{path} cannot be read: {error.strerror}") from error
    return data if data.startswith(b"\xff\xd8\xff") else _decode(data, path)


def _decode(data: bytes, path: Path) -> Image:
    """Any other format; 16 bits become 8, transparency is dropped, grey stays grey."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR) if data else None
    except cv2.error as error:
        raise BadShot(f"{path} does not decode: {error.err}") from error
    if image is None:
        raise BadShot(f"{path} is not an image that can be read")
    return np.asarray(image, np.uint8)


def _video_fps(path: Path) -> float | None:
    """The rate a video declares, or None; raises CameraError where it is not a video."""
    if not path.is_file():
        raise CameraError(f"no video {path}")
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise CameraError(f"{path} is not a video that OpenCV can read: re-encode it, for example as MJPEG in .avi")
        fps = video.get(cv2.CAP_PROP_FPS)
    finally:
        video.release()
    return fps if math.isfinite(fps) and 0 < fps <= 1000 else None


def _frames(path: Path) -> Iterator[Image]:
    video = cv2.VideoCapture(str(path))
    try:
        while True:
            read, frame = video.read()
            if not read:
                return
            yield np.asarray(frame, np.uint8)
    finally:
        video.release()


def _shot(pictures: tuple[Picture, Picture], captured_ns: int) -> Shot:
    left, right = (
        Eye(captured_ns, jpeg=picture) if isinstance(picture, bytes) else Eye(captured_ns, pixels=picture)
        for picture in pictures
    )
    return Shot(left, right)


def _said(shape: tuple[int, int, int]) -> str:
    return f"{shape[1]}x{shape[0]} {'colour' if shape[2] == 3 else 'grey'}"
