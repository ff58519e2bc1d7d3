"""Makes pairs of the images of two topics that know nothing of each other, by the nearest time. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from stream.image import Image

TOLERANCE_NS = 20_000_000
"""Images further apart are no pair: half the period of a camera of 25 Hz."""
MAX_WAITING = 64
MAX_WAITING_BYTES = 64 << 20
"""Images of one side that wait, and their bytes; the oldest goes, but one always stays."""

Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Shot:
    """An image and when it was captured."""

    captured_ns: int
    image: bytes | Image

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.image) if isinstance(self.image, bytes) else self.image.nbytes


class Pairing:
    """Takes the images of both sides as they come, each side in order of its time, and gives those that belong together.

    A pair is given once no later image can be a nearer partner: one image late, or at the `end`.
    """

    def __init__(self) -> None:
        self._left: deque[Shot] = deque()
        self._right: deque[Shot] = deque()
        self.unpaired = 0
        """Images that found no partner."""

    def add(self, side: Side, shot: Shot) -> list[tuple[Shot, Shot]]:
        """The pairs that are certain now."""
        waiting = self._left if side == "left" else self._right
        if waiting and shot.captured_ns < waiting[-1].captured_ns:
            self.unpaired += 1
            return []
        waiting.append(shot)
        while len(waiting) > MAX_WAITING or (len(waiting) > 1 and sum(one.size for one in waiting) > MAX_WAITING_BYTES):
            self._drop(waiting)
        return self._match(final=False)

    def end(self) -> list[tuple[Shot, Shot]]:
        """The pairs that were waiting for something nearer."""
        pairs = self._match(final=True)
        self.unpaired += len(self._left) + len(self._right)
        self._left.clear()
        self._right.clear()
        return pairs

    def _match(self, *, final: bool) -> list[tuple[Shot, Shot]]:
        pairs = []
        while self._left and self._right:
            earlier, later = sorted((self._left, self._right), key=lambda side: side[0].captured_ns)
            apart_ns = later[0].captured_ns - earlier[0].captured_ns
            if apart_ns > TOLERANCE_NS:
                self._drop(earlier)
            elif apart_ns and len(earlier) == 1 and not final:
                break  # the next of this side may be nearer
            elif len(earlier) > 1 and abs(earlier[1].captured_ns - later[0].captured_ns) < apart_ns:
                self._drop(earlier)
            else:
                pairs.append((self._left.popleft(), self._right.popleft()))
        return pairs

    def _drop(self, waiting: deque[Shot]) -> None:
        waiting.popleft()
        self.unpaired += 1
