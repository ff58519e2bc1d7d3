"""Pairs without anything to learn, as rigs make them: one mishap spoils both eyes of a real pair."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np

from benchmarks.shared.pairs import Eyes
from stream.image import Image

Mishap = Literal["noise", "flat", "motion_blur", "lens_cap", "over_exposed", "frozen"]
MISHAPS: tuple[Mishap, ...] = get_args(Mishap)


def spoiled(eyes: Eyes, mishap: Mishap, random: np.random.Generator, *, before: Eyes) -> Eyes:
    """Return both eyes, uint8 [H, W] or [H, W, 3] of one shape, as they look after a mishap. `before` has the same shape.

    noise: every pixel is random. flat: one grey, with a grain of two levels. motion_blur: smeared along one
    direction over a third of the height. lens_cap: nearly black. over_exposed: six times the light. frozen: `before`, the
    eyes of an earlier pair, again.
    """
    if mishap == "frozen":
        return before
    grain = random.spawn(2)
    cause = random.random()  # both eyes have the same tone and direction
    left, right = (_spoil(eye, mishap, cause, own) for eye, own in zip(eyes, grain, strict=True))
    return left, right


def _spoil(eye: Image, mishap: Mishap, cause: float, random: np.random.Generator) -> Image:
    match mishap:
        case "noise":
            return random.integers(0, 256, eye.shape, np.uint8)
        case "motion_blur":
            return _smeared(eye, np.pi * cause)
        case "flat":
            levels = 40 + 175 * cause + random.normal(0, 2, eye.shape)
        case "lens_cap":
            levels = random.normal(3, 2, eye.shape)
        case _:
            levels = eye * 6.0 + random.normal(0, 2, eye.shape)
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def _smeared(eye: Image, angle: float) -> Image:
    length = max(3, eye.shape[0] // 3)
    kernel = np.zeros((length, length), np.float32)
    middle = (length - 1) / 2
    ends = [
        (round(middle + side * middle * np.cos(angle)), round(middle + side * middle * np.sin(angle)))
        for side in (-1, 1)
    ]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return np.asarray(cv2.filter2D(eye, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT), np.uint8)
