"""What all live cameras share: images of two eyes are paired by their times, and one image with both eyes is split."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from device.camera import BadShot, EyeImage, Layout, Shot, halves, pixels_of
from stream.failures import Failures
from stream.pairing import EyeName, Pairing

STOPPED_S = 5.0
"""A camera that has given no image for this long has stopped."""
LOG_INTERVAL_S = 60.0

log = logging.getLogger(__name__)


def nothing() -> None:
    """Do nothing: the `release` of an image that holds no buffer of the hardware."""


@dataclass(frozen=True, slots=True)
class Frame:
    """An image of one eye that has been taken and not yet read."""

    captured_ns: int
    """Nanoseconds on the camera's own clock, which is never set."""
    read: Callable[[int], EyeImage]
    """Returns the image; called with its capture time in nanoseconds since 1970. Raises BadShot."""
    release: Callable[[], None] = nothing
    """Gives the buffer back to the hardware."""
    size: int = 0
    """Bytes that it holds in memory."""


class Eye(Protocol):
    """One camera of a rig."""

    def take(self) -> Frame:
        """Wait for the next image. Raises BadShot if there is none, and CameraMissing if there will be none."""

    def close(self) -> None:
        """Free the hardware; idempotent."""


class PairedCamera:
    """Two cameras that run freely: images of the nearest times make a shot, and one without a partner is counted and left out.

    name: for messages. fps: the rate of the faster one in Hz, None if unknown. now_ns: reads the clock of the frames.
    """

    def __init__(
        self,
        name: str,
        eyes: Sequence[Eye],
        *,
        fps: float | None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.fps = fps
        self._name = name
        self._eyes = dict(zip(("left", "right"), eyes, strict=True))
        self._now_ns = now_ns
        self._started = False
        self._failures = Failures(log, LOG_INTERVAL_S)

    def __iter__(self) -> Iterator[Shot | BadShot]:
        """Yield shots at the pace of the cameras; raises CameraMissing when one of them stops."""
        pairing = Pairing[Frame](interval_ns=round(1e9 / self.fps) if self.fps else 0, on_unpaired=self._leave_out)
        newest_ns: dict[EyeName, float] = {"left": float("-inf"), "right": float("-inf")}
        try:
            while True:
                eye = min(newest_ns, key=lambda name: newest_ns[name])  # the one that is behind
                try:
                    frame = self._eyes[eye].take()
                    newest_ns[eye] = frame.captured_ns
                    for left, right in pairing.add(eye, frame):
                        self._started = True
                        yield self._shot(left, right)
                except BadShot as bad:
                    yield bad
        finally:
            for pair in pairing.end():
                for frame in pair:
                    frame.release()

    def close(self) -> None:
        """Free both cameras."""
        close_all(list(self._eyes.values()))

    def _shot(self, left: Frame, right: Frame) -> Shot:
        since_1970_ns = time.time_ns() - self._now_ns()  # once for both: the clock may be set between two readings
        try:
            return Shot(left.read(since_1970_ns + left.captured_ns), right.read(since_1970_ns + right.captured_ns))
        finally:
            left.release()
            right.release()

    def _leave_out(self, eye: EyeName, frame: Frame) -> None:
        frame.release()
        if self._started:  # before, one camera only runs while the other one starts
            text = f"{self._name}: an image of the {eye} eye has no partner within half a frame and is left out"
            self._failures.add(eye, text)


class SplitCamera:
    """One camera whose images hold both eyes. A JPEG has to be decoded, split and encoded again.

    layout: where the eyes are. fps and now_ns: as in PairedCamera.
    """

    def __init__(
        self, eye: Eye, layout: Layout, *, fps: float | None, now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.fps = fps
        self._eye = eye
        self._layout: Layout = layout
        self._now_ns = now_ns

    def __iter__(self) -> Iterator[Shot | BadShot]:
        """Yield shots at the pace of the camera; raises CameraMissing when it stops."""
        while True:
            try:
                frame = self._eye.take()
                try:
                    image = frame.read(time.time_ns() - self._now_ns() + frame.captured_ns)
                finally:
                    frame.release()
                yield split(image, self._layout)
            except BadShot as bad:
                yield bad

    def close(self) -> None:
        """Free the camera."""
        self._eye.close()


def split(image: EyeImage, layout: Layout) -> Shot:
    """Return the two eyes of one image. Raises BadShot if it does not decode or cannot be halved."""
    pixels = pixels_of(image)
    left, right = halves(pixels, layout)
    if left.shape != right.shape:
        raise BadShot(f"an image of {pixels.shape[1]}x{pixels.shape[0]} has no two equal halves")
    return Shot(EyeImage(image.captured_ns, pixels=left), EyeImage(image.captured_ns, pixels=right))


def close_all(eyes: Sequence[Eye]) -> None:
    """Close every eye, also when another one fails to close."""
    if eyes:
        try:
            eyes[0].close()
        finally:
            close_all(eyes[1:])
