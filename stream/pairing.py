"""Makes pairs from the images of two independent topics, by the nearest time. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from stream.image import Image

TOLERANCE_NS = 20_000_000
"""Images further apart make no pair: half the period of a camera of 25 Hz."""
MAX_WAITING = 64
MAX_WAITING_BYTES = 64 << 20
"""Limits of the images of one eye that wait, in number and bytes. Beyond them the oldest is dropped, but one image always
stays."""

EyeName = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class TimedImage:
    """An image of one eye, JPEG bytes or pixels, and its capture time in nanoseconds since 1970."""

    captured_ns: int
    """Nanoseconds since 1970."""
    image: bytes | Image
    """A JPEG file, or pixels: uint8 [H, W] or [H, W, 3] BGR."""

    @property
    def size(self) -> int:
        """Size of the image in bytes, as it is held in memory."""
        return len(self.image) if isinstance(self.image, bytes) else self.image.nbytes


class Pairing:
    """Receives the images of both eyes, each eye in the order of its time, and forms pairs.

    A pair is returned once no later image can be a nearer partner: when the next image has arrived, or at the `end`.
    """

    def __init__(self) -> None:
        self._left: deque[TimedImage] = deque()
        self._right: deque[TimedImage] = deque()
        self.unpaired = 0
        """Images that found no partner."""

    def add(self, eye: EyeName, shot: TimedImage) -> list[tuple[TimedImage, TimedImage]]:
        """Add an image; return the pairs whose partners are certain now."""
        waiting = self._left if eye == "left" else self._right
        if waiting and shot.captured_ns < waiting[-1].captured_ns:
            self.unpaired += 1
            return []
        waiting.append(shot)
        while len(waiting) > MAX_WAITING or (len(waiting) > 1 and sum(one.size for one in waiting) > MAX_WAITING_BYTES):
            self._drop(waiting)
        return self._match(final=False)

    def end(self) -> list[tuple[TimedImage, TimedImage]]:
        """Return the pairs that were waiting for a nearer partner."""
        pairs = self._match(final=True)
        self.unpaired += len(self._left) + len(self._right)
        self._left.clear()
        self._right.clear()
        return pairs

    def _match(self, *, final: bool) -> list[tuple[TimedImage, TimedImage]]:
        pairs = []
        while self._left and self._right:
            earlier, later = sorted((self._left, self._right), key=lambda eye: eye[0].captured_ns)
            apart_ns = later[0].captured_ns - earlier[0].captured_ns
            if apart_ns > TOLERANCE_NS:
                self._drop(earlier)
            elif apart_ns and len(earlier) == 1 and not final:
                break  # the next image of this eye may be nearer
            elif len(earlier) > 1 and abs(earlier[1].captured_ns - later[0].captured_ns) < apart_ns:
                self._drop(earlier)
            else:
                pairs.append((self._left.popleft(), self._right.popleft()))
        return pairs

    def _drop(self, waiting: deque[TimedImage]) -> None:
        waiting.popleft()
        self.unpaired += 1
