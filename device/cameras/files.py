"""Recordings as cameras: two folders of images, two videos, or one video with both eyes.

A file does not say when its image was taken, so the capture time of a shot is start + index / rate. The same files then have
the same times, and dedupe makes the same decisions, at whatever speed they are played.
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

from device.camera import DEFAULTS, BadShot, CameraError, CameraSettings, EyeImage, Layout, Shot, decode_image, halves
from stream.image import MAX_EYE_BYTES, Image, Shape

FOLDER_FPS = 10.0
"""Rate in Hz of a recording without a rate of its own; the same as KITTI's."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})

Picture = Image | bytes
"""Pixels, or the bytes of a JPEG file."""
Play = Callable[[], Iterator[tuple[Picture, Picture] | BadShot]]
"""Plays a recording once from its beginning, and yields a left and a right picture for each shot."""

log = logging.getLogger(__name__)


class RecordedCamera:
    """Plays a recording as a camera, once or endlessly.

    The constructor checks the first readable pair, so that a recording that cannot be used is refused before anything is sent; it
    raises CameraError. name: for messages. fps: the recording's own rate, if it has one.
    """

    def __init__(self, name: str, play: Play, settings: CameraSettings, *, fps: float | None = None) -> None:
        self.fps = fps
        self._play = play
        self._settings = settings
        self._period_ns = 1e9 / (settings.fps or fps or FOLDER_FPS)
        self._check_first(name)

    def __iter__(self) -> Iterator[Shot | BadShot]:
        """Yield shots with capture times start + index / rate; time goes on when the recording begins again."""
        start_ns = time.time_ns() if self._settings.start_ns is None else self._settings.start_ns
        index = count()
        while True:
            for pictures in self._play():
                captured_ns = start_ns + round(next(index) * self._period_ns)
                yield pictures if isinstance(pictures, BadShot) else _shot(pictures, captured_ns)
            if not self._settings.repeat:
                return

    def close(self) -> None:
        """Do nothing: only a running iteration holds files, and it closes them itself."""

    def _check_first(self, name: str) -> None:
        for pictures in self._play():
            try:
                left, right = _shapes(pictures)
            except BadShot:
                continue
            if left != right:
                raise CameraError(
                    f"{name}: left is {_format_shape(left)} and right is {_format_shape(right)}; both eyes need one size: "
                    "crop or scale one of them first"
                )
            return
        raise CameraError(f"{name}: it holds no readable pair")


def open_folders(left: Path | str, right: Path | str, settings: CameraSettings = DEFAULTS) -> RecordedCamera:
    """Open two folders with the same file names, sorted by time; JPEG files are forwarded untouched.

    Raises CameraError if a folder is missing or empty, or if their names differ.
    """
    left, right = Path(left), Path(right)
    names, others = _image_names(left), _image_names(right)
    if names != others:
        odd = min(set(names) ^ set(others))
        where = left if odd in set(names) else right
        raise CameraError(
            f"{left} has {len(names)} images and {right} has {len(others)}; they need the same file names, "
            f"but {odd} is only in {where}"
        )

    def play() -> Iterator[tuple[Picture, Picture] | BadShot]:
        for name in names:
            try:
                yield _read(left / name), _read(right / name)
            except BadShot as bad:
                yield bad

    return RecordedCamera(f"dir:{left},{right}", play, settings)


def open_videos(left: Path | str, right: Path | str, settings: CameraSettings = DEFAULTS) -> RecordedCamera:
    """Open two videos, whose frames form pairs by their numbers; the shorter one ends both. Raises CameraError."""
    left, right = Path(left), Path(right)

    def play() -> Iterator[tuple[Picture, Picture] | BadShot]:
        for one, other in zip_longest(_frames(left), _frames(right)):
            if one is None or other is None:
                shorter = left if one is None else right
                log.warning("unequal videos: %s ends first, the rest of the other one is left out", shorter)
                return
            yield one, other

    fps, _ = _video_fps(left), _video_fps(right)
    return RecordedCamera(f"video:{left},{right}", play, settings, fps=fps)


def open_split(layout: Layout, path: Path | str, settings: CameraSettings = DEFAULTS) -> RecordedCamera:
    """Open one video whose frames hold both eyes. Raises CameraError."""
    path = Path(path)

    def play() -> Iterator[tuple[Picture, Picture] | BadShot]:
        for frame in _frames(path):
            yield halves(frame, layout)  # an odd side makes unequal eyes, which is refused

    return RecordedCamera(f"{layout}:{path}", play, settings, fps=_video_fps(path))


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
    if data.startswith(b"\xff\xd8\xff"):
        return data
    return decode_image(data, cv2.IMREAD_ANYCOLOR, str(path))  # 16 bits become 8, no transparency, grey stays grey


def _video_fps(path: Path) -> float | None:
    """Return the rate that a video declares, or None; raises CameraError if it is not a video."""
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
        while (frame := video.read()[1]) is not None:
            yield np.asarray(frame, np.uint8)
    finally:
        video.release()


def _shot(pictures: tuple[Picture, Picture], captured_ns: int) -> Shot:
    left, right = (
        EyeImage(captured_ns, jpeg=picture) if isinstance(picture, bytes) else EyeImage(captured_ns, pixels=picture)
        for picture in pictures
    )
    return Shot(left, right)


def _shapes(pictures: tuple[Picture, Picture] | BadShot) -> tuple[Shape, Shape]:
    if isinstance(pictures, BadShot):
        raise pictures
    shot = _shot(pictures, 0)
    return shot.left.shape(), shot.right.shape()


def _format_shape(shape: Shape) -> str:
    return f"{shape[1]}x{shape[0]} {'colour' if shape[2] == 3 else 'grey'}"
