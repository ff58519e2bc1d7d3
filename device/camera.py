"""The contract between cameras and capture: a camera is opened with settings, and then gives shots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np

from stream.errors import ReportedError
from stream.image import Image, Shape, TooCostly, check_file, jpeg_shape
from stream.signals.signal import NOTHING, Telemetry

HARDWARE_SIZE = (720, 1280)
HARDWARE_FPS = 30.0


Layout = Literal["sbs", "tb"]
"""Where the eyes are in one image: side by side, the left one first, or the left one over (top) the right one (bottom)."""


class CameraError(ReportedError):
    """A camera that cannot be opened or used; the message names the camera and says what to do."""


class CameraMissing(CameraError):
    """Hardware that is missing, busy, or has stopped: the same settings may work later."""

    exit_code = 1


class BadShot(Exception):
    """A shot that could not be read (a truncated file, a failed grab). It is dropped and counted, and the camera goes on."""


@dataclass(frozen=True, slots=True)
class EyeImage:
    """The image of one eye as a camera gives it, with `pixels`, `jpeg` or both.

    captured_ns: nanoseconds since 1970. pixels: uint8 [H, W] or [H, W, 3] BGR. jpeg: the camera's own compressed bytes, which are
    forwarded untouched. luma: a small grey copy, uint8 [h, w], if the hardware gives one at no cost.
    """

    captured_ns: int
    pixels: Image | None = None
    jpeg: bytes | None = None
    luma: Image | None = None

    def shape(self) -> Shape:
        """Return the height, width and channels, without decoding; raises BadShot if there is no complete image."""
        if self.jpeg is not None:
            try:
                return jpeg_shape(self.jpeg)
            except ValueError as error:
                raise BadShot(str(error)) from error
        if self.pixels is None:
            raise BadShot("the camera gave no image")
        return self.pixels.shape[0], self.pixels.shape[1], 1 if self.pixels.ndim == 2 else 3


@dataclass(frozen=True, slots=True)
class SimLabels:
    """What a simulated shot shows, for probes only: labels are never sent and never used in training."""

    place: int
    """Index of the room."""
    objects: tuple[int, ...]
    """Ids of the visible pictures and things, sorted."""


@dataclass(frozen=True, slots=True)
class Shot:
    """The images of the left and the right eye, taken at one moment."""

    left: EyeImage
    right: EyeImage
    labels: SimLabels | None = None
    telemetry: Telemetry = NOTHING
    """What the camera measured since its last shot, and the episode and subject to which the shot belongs."""


def decode_image(data: bytes, flags: int, name: str = "the JPEG") -> Image:
    """Decode an image as OpenCV's `flags` say; raises BadShot with the `name` of the image if that is not possible."""
    try:
        check_file(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except TooCostly as error:
        raise BadShot(f"{name}: {error}") from error
    except cv2.error as error:
        raise BadShot(f"{name} does not decode: {error.err}") from error
    if image is None:
        raise BadShot(f"{name} does not decode")
    return np.asarray(image, np.uint8)


def pixels_of(eye: EyeImage) -> Image:
    """Return the pixels of an eye, decoded if it has a JPEG only. Raises BadShot."""
    if eye.pixels is not None:
        return eye.pixels
    eye.shape()  # refuses a JPEG that is cut off, whose rest OpenCV would make up
    return decode_image(eye.jpeg or b"", cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def with_equal_channels(shot: Shot) -> Shot:
    """Return a shot whose eyes are both grey or both colour: where only one has colour, the other one gets three equal channels.

    Raises BadShot if an eye cannot be decoded.
    """
    left, right = shot.left.shape()[2], shot.right.shape()[2]
    if left == right:
        return shot
    grey = shot.left if left == 1 else shot.right
    pixels = grey.pixels
    if pixels is None:
        pixels = decode_image(grey.jpeg or b"", cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    colour = replace(grey, pixels=np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), np.uint8), jpeg=None)
    return replace(shot, left=colour) if left == 1 else replace(shot, right=colour)


def halves(pixels: Image, layout: Layout) -> tuple[Image, Image]:
    """Return the left and the right eye of one image, uint8 [H, W(, 3)]; they are unequal if its side is odd."""
    if layout == "sbs":
        middle = pixels.shape[1] // 2
        return pixels[:, :middle], pixels[:, middle:]
    middle = pixels.shape[0] // 2
    return pixels[:middle], pixels[middle:]


class Camera(Protocol):
    """Gives shots in the order of time."""

    fps: float | None
    """The camera's own rate in Hz; None if it has none, for example a folder of files."""

    def __iter__(self) -> Iterator[Shot | BadShot]:
        """Yield shots until the camera ends. A BadShot is *yielded*, not raised, because a generator that raises is finished."""

    def close(self) -> None:
        """Free the hardware or the files; idempotent."""


@dataclass(frozen=True, kw_only=True)
class CameraSettings:
    """The settings of a camera. Each kind of camera ignores those that it does not need. None means the camera's own default."""

    fps: float | None = None
    """Rate in Hz that is requested from the hardware or the simulator, or that gives the images of a recording their times; 0
    means None."""
    repeat: bool | int = False
    """How many times a recording is played; True: without end, False: once."""
    size: tuple[int, int] | None = None
    """Height and width in pixels that are requested from the hardware or the simulator."""
    exposure_us: float | None = None
    """Exposure time in microseconds that is requested from the hardware; None: automatic."""
    whole_field: bool = False
    """Whether a camera of a Raspberry Pi uses a sensor mode that shows its whole field of view."""
    tolerance_ms: float | None = None
    """Images of a recording that are further apart, in milliseconds, make no pair; None: half of the shorter frame interval."""
    right_late_ms: float = 0.0
    """How much later than the left eye the right one began to record, in milliseconds."""
    levels: tuple[float, float] | None = None
    """What is black and what is white in images of more than 8 bits; None: as a sample of the recording shows it."""
    rectify: tuple[Path, ...] = ()
    """The files of a calibration by which images are rectified, or the root of a data set that has one; none: as they are."""
    row_shift_px: int | Literal["auto"] | None = None
    """How many pixels lower things are in the right image, which is corrected; auto: as the first shots show it."""
    seed: int = 0
    """Decides the simulated world."""
    walk: int = 0
    """Decides the path and the light in the simulated world."""
    textures: Path | None = None
    """A folder of photographs that hang in the simulated world."""
    places: int = 16
    """Number of rooms of the simulated world."""
    start_ns: int | None = None
    """Capture time of the first shot of a recording or of the simulator, nanoseconds since 1970; None: now."""

    @property
    def tolerance_ns(self) -> int | None:
        """The tolerance in nanoseconds."""
        return None if self.tolerance_ms is None else round(self.tolerance_ms * 1e6)

    @property
    def hardware_size(self) -> tuple[int, int]:
        """Height and width in pixels to request from the hardware."""
        return self.size or HARDWARE_SIZE

    @property
    def hardware_fps(self) -> float:
        """Rate in Hz to request from the hardware."""
        return self.fps or HARDWARE_FPS


DEFAULTS = CameraSettings()


def configure_opencv() -> None:
    """Make OpenCV and the FFmpeg in it use one thread and print no error messages. Call it before the first video is opened.

    The codec is called from one thread, and a pool of threads would only take the processor from a learner on the same machine.
    An input that cannot be opened is reported by our own message of one line.
    """
    cv2.setNumThreads(1)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
