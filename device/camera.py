"""What every camera gives: shots of two eyes. The contract of `device`; cameras satisfy it, capture consumes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from stream.codec import Shape, jpeg_shape
from stream.errors import ReportedError
from stream.pair import Image


class CameraError(ReportedError):
    """A camera that cannot be opened or used; the message names it and says what to do."""


class CameraMissing(CameraError):
    """Hardware that is not there, is busy, or has stopped: the same settings may work later."""

    exit_code = 1


class BadShot(Exception):
    """A shot that could not be read (a truncated file, a failed grab): dropped and counted, the camera goes on."""


@dataclass(frozen=True, slots=True)
class EyeImage:
    """One image as a camera gives it; at least one of `pixels` and `jpeg` is there.

    pixels: uint8 [H, W] or [H, W, 3] BGR. jpeg: the camera's own compressed bytes, forwarded untouched. luma: a small
    grey copy, uint8 [h, w], where the hardware gives one for nothing. captured_ns: nanoseconds since 1970.
    """

    captured_ns: int
    pixels: Image | None = None
    jpeg: bytes | None = None
    luma: Image | None = None

    def shape(self) -> Shape:
        """Height, width, channels, without decoding; raises BadShot where there is no whole image."""
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
    """What a simulated shot shows. For probes only: labels never travel and never reach training."""

    place: int
    objects: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shot:
    """Both eyes at one moment."""

    left: EyeImage
    right: EyeImage
    labels: SimLabels | None = None


class Camera(Protocol):
    """A source of shots, in the order of time.

    fps is the camera's own rate in Hz, or None where it has none (a folder of files).
    """

    fps: float | None

    def __iter__(self) -> Iterator[Shot | BadShot]:
        """Shots until the camera ends; an unreadable one is *yielded* as a BadShot, so that a generator survives it."""

    def close(self) -> None:
        """Free the hardware or the files; idempotent."""
