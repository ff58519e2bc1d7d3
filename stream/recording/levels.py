"""The one rule by which images of more than 8 bits become 8 bits: for folders, films and recordings, and for both eyes.

A sample decides what becomes black and what becomes white: images spread over the first AHEAD ones of each eye, without their
darkest and brightest 0.5 percent. The levels then stay. Only where an image lies outside of them, so that it would be black or
white all over, they widen, or go to that image if it is far away. Whoever states two levels gets these, for every image.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stream.image import Image

SHARE = 0.005
"""This share of the pixels of the sample may be darker than black, and as many brighter than white."""
FULL_RANGE = 1 << 15
"""Where 16-bit images use so many values, all values are kept, so that 256 of them become one."""
SAMPLE = 8
"""At least so many images of each eye are in the sample if there are as many, and less than twice as many."""
AHEAD = 1000
"""So many images of each eye are looked through for the sample."""
FAR = 0.25
"""An image that would use less than this share of wider levels gets levels of its own."""
_PIXELS = 50_000
"""About so many pixels of an image are looked at."""

log = logging.getLogger(__name__)


class Levels:
    """What becomes black and what becomes white in images of more than 8 bits.

    black, white: as somebody states them, values of a pixel, black below white. `Levels.of` finds them in a sample instead.
    """

    def __init__(self, black: float, white: float, *, stated: bool = True) -> None:
        self.black, self.white = black, white
        self._stated, self._changes = stated, 0

    @classmethod
    def of(cls, images: Iterable[NDArray[Any]]) -> Self:
        """Return the levels that a sample of images needs: arrays of integers or floats, of any shape.

        A zero means that nothing was measured, as at the borders of rectified images, and does not count. 16-bit images that
        use half of their range keep all of it.
        """
        parts = [_some(image) for image in images]
        black, white = _range(np.concatenate(parts) if parts else np.empty(0))
        if white - black >= FULL_RANGE and all(part.dtype == np.uint16 for part in parts):
            black, white = 0.0, 65280.0
        return cls(black, white, stated=False)

    def apply(self, image: NDArray[Any]) -> Image:
        """Return the image with 8 bits, of the same shape. What is not a number becomes black."""
        if not self._stated:
            self._widen(image)
        with np.errstate(all="ignore"):
            scaled = (image.astype(np.float64) - self.black) * (255 / (self.white - self.black))
        return np.asarray(np.nan_to_num(np.clip(scaled, 0, 255)), np.uint8)

    @np.errstate(all="ignore")
    def _widen(self, image: NDArray[Any]) -> None:
        """Change the levels if most of an image lies outside of them, so that the image uses FAR of them at least."""
        some = _counting(_some(image))
        if not some.size or self.black <= np.median(some) <= self.white:
            return
        black, white = _range(some)
        wide = min(self.black, black), max(self.white, white)
        self.black, self.white = wide if white - black > FAR * (wide[1] - wide[0]) else (black, white)
        self._changes += 1
        if self._changes & (self._changes - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a flickering camera fills no disk
            text = "an image is outside the levels so far, which are now %g to %g: --levels BLACK WHITE sets them"
            log.warning(text, self.black, self.white)


class Sample:
    """Chooses images of one eye that are spread over those that come, without knowing how many will."""

    def __init__(self) -> None:
        self.count = 0
        """Images so far."""
        self.images: list[NDArray[Any]] = []
        self._step = 1

    def offer(self, load: Callable[[], NDArray[Any] | None]) -> None:
        """Offer the next image. load: gives it, or None if it has 8 bits; it is called only for an image that is chosen."""
        self.count += 1
        if (self.count - 1) % self._step or (image := load()) is None:
            return
        self.images.append(_some(image))
        if len(self.images) == 2 * SAMPLE:
            self.images, self._step = self.images[::2], 2 * self._step


def _some(image: NDArray[Any]) -> NDArray[Any]:
    values = image.reshape(-1)
    return values[:: max(1, values.size // _PIXELS)]


def _counting(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the values that are numbers and were measured; all numbers if none was."""
    numbers = values.astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    measured = numbers[numbers != 0]
    return measured if measured.size else numbers


@np.errstate(all="ignore")
def _range(values: NDArray[Any]) -> tuple[float, float]:
    counting = _counting(values)
    if not counting.size:
        return 0.0, 65280.0
    black, white = (float(level) for level in np.quantile(counting, [SHARE, 1 - SHARE]))
    return black, max(white, black + 1e-9 * max(1.0, abs(black)))
