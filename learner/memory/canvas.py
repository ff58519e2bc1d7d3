"""Images on the canvas of memory."""

from __future__ import annotations

import cv2
import numpy as np

from stream.image import Image


def on_canvas(image: Image, canvas: tuple[int, int]) -> Image:
    """Squeeze an image, uint8 [H, W] or [H, W, 3], onto the canvas (height, width): uint8 [h, w, 3]. Grey is repeated."""
    height, width = canvas
    if image.shape[:2] != canvas:
        shrinks = image.shape[0] >= height and image.shape[1] >= width
        image = np.asarray(
            cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), np.uint8
        )
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def centre_square(image: Image, aspect: float, side: int) -> Image:
    """Cut the central square of the scene out of an image on the canvas, uint8 [H, W, 3], as uint8 [side, side, 3].

    aspect: width / height of the scene before it was squeezed.
    """
    height, width = image.shape[:2]
    wide, high = max(1, round(width / max(aspect, 1))), max(1, round(height * min(aspect, 1)))
    top, left = (height - high) // 2, (width - wide) // 2
    shrinks = min(wide, high) >= side
    square = np.ascontiguousarray(image[top : top + high, left : left + wide])
    return np.asarray(
        cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), np.uint8
    )
