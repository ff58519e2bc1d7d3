"""Bounds for images, and the shape that a JPEG declares. This module needs NumPy only.

Images are uint8 in OpenCV's channel order, [H, W] grey or [H, W, 3] **BGR**, from the camera to the learner's batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_SIDE = 8192
"""Largest accepted width or height, in pixels."""
MAX_EYE_BYTES = 64 << 20
"""Largest accepted encoded image, in bytes."""
MAX_JPEG_SEGMENTS = 1024
MAX_JPEG_SCANS = 32
"""Progressive files have about ten; thousands of empty scans are a known way to keep a decoder busy for minutes."""

Image = NDArray[np.uint8]
Shape = tuple[int, int, int]
"""Height, width, channels (1 or 3)."""


def jpeg_shape(data: bytes) -> Shape:
    """Return the height, width and channels that a complete JPEG file declares, without decoding it.

    Zeros after the end are tolerated, because capture buffers are padded with them. Raises ValueError for a JPEG that cannot be
    sent: data that is no JPEG, is cut off, is larger than MAX_SIDE, has not 8 bits and 1 or 3 channels, or uses arithmetic or
    lossless coding. Markers are those of ITU-T T.81, annex B.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        raise ValueError("it is not a JPEG: no SOI marker at its start")
    if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ValueError("the JPEG is cut off: no EOI marker at its end")
    if data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise ValueError(f"the JPEG has more than {MAX_JPEG_SCANS} scans")
    at = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        head = data[at : at + 4]
        if len(head) < 4 or head[0] != 0xFF:
            break
        if head[1] in (0xC0, 0xC1, 0xC2):  # baseline, extended, progressive
            return _frame_shape(data[at + 4 : at + 10])
        if head[1] == 0xFF:  # a fill byte before a marker
            at += 1
            continue
        if head[1] < 0xC4 or head[1] in (0xD8, 0xD9, 0xDA):  # nothing of these comes before the frame
            break
        at += 2 + max(2, int.from_bytes(head[2:]))
    raise ValueError("the JPEG has no frame of a kind we read (baseline or progressive) at its start")


def _frame_shape(frame: bytes) -> Shape:
    """Return the shape in a SOF (start of frame) segment. frame: its bytes, beginning with the sample precision."""
    if len(frame) < 6:
        raise ValueError("the JPEG is cut off in its frame header")
    precision, channels = frame[0], frame[5]
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    if precision != 8 or channels not in (1, 3):
        raise ValueError(f"the JPEG has {channels} channels of {precision} bits; 1 or 3 of 8 bits can be sent")
    check_sides(height, width)
    return height, width, channels


def check_sides(height: int, width: int) -> None:
    """Raise ValueError for a height or width, in pixels, that cannot be sent."""
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(f"an image of {width}x{height} pixels cannot be sent: sides are 1 to {MAX_SIDE}")
