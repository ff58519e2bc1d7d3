"""How the objective looked at a pair, as one element of a page: both eyes with their windows, the heads, the views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from learner.report.html import grid
from learner.report.pictures import crop_colour, gaussian, heat, photo, window
from stream.pair import Image

HEAD_WIDTH = 240
"""Of the picture of a head, pixels: several stand beside each other."""
_COLUMNS = (
    "looks_left",
    "looks_right",
    "attention",
    "head",
    "gauss",
    "window",
    "crops",
    "teacher_view",
    "student_views",
)

Arrays = NDArray[Any]


def looks(album: Mapping[str, Arrays]) -> str:
    """All looks of an album (`learner.report.album.looks_at`); empty where it has none."""
    if not all(name in album for name in _COLUMNS):
        return ""
    return "".join(_look(*columns) for columns in zip(*(album[name] for name in _COLUMNS), strict=False))


def _look(
    left: Arrays,
    right: Arrays,
    attention: Arrays,
    chosen: int,
    gauss: Arrays,
    focus: Arrays,
    crops: Arrays,
    teacher_view: Arrays,
    student_views: Arrays,
) -> str:
    colours = [crop_colour(i, len(crops)) for i in range(len(crops))]
    eyes = [
        photo(left, "left image and the teacher's window", [gaussian(gauss, left), window(focus, left, "#fff")]),
        photo(
            right,
            "right image and the student's crops",
            [
                window(focus, right, "#fff8"),
                *(window(c, right, colour) for c, colour in zip(crops, colours, strict=True)),
            ],
        ),
    ]
    small = _narrow(left)
    heads = [
        photo(heat(small, one), f"attention of head {i}", classes="chosen" if i == chosen else "")
        for i, one in enumerate(attention)
    ]
    views = [photo(teacher_view, "the teacher's view", classes="teacher")] + [
        f'<div style="border-color:{colour}">{photo(view, "a view of the student")}</div>'
        for view, colour in zip(student_views, colours, strict=True)
    ]
    below = grid(heads, "heads") + grid(views, "views")
    return f'<article class="look">{grid(eyes, "eyes")}<div class="below">{below}</div></article>'


def _narrow(image: Arrays) -> Image:
    """At most HEAD_WIDTH wide."""
    scale = min(1.0, HEAD_WIDTH / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
