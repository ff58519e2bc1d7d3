"""Bounds for images. This module needs NumPy only.

Images are uint8 in OpenCV's channel order, [H, W] grey or [H, W, 3] **BGR**, from the camera to the learner's batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_SIDE = 8192
"""Largest accepted width or height, in pixels."""
MAX_EYE_BYTES = 64 << 20
"""Largest accepted encoded image, in bytes."""

Image = NDArray[np.uint8]
Shape = tuple[int, int, int]
"""Height, width, channels (1 or 3)."""


def check_sides(height: int, width: int) -> None:
    """Raise ValueError for a height or width, in pixels, that cannot be sent."""
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(f"an image of {width}x{height} pixels cannot be sent: sides are 1 to {MAX_SIDE}")
