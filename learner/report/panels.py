"""The views of a pair as an element of a page: both eyes with their windows, the attention heads, the crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from learner.report.html import escape, grid
from learner.report.pictures import crop_colour, gaussian, heat, photo, shrink, window

VIEWS_NOTE = (
    "On the left image, the Gaussian fitted to one attention head (cross: mean; rings: one and two standard deviations) "
    "places the teacher's window. The student's crops lie at the same place of the right image. Below: every head from its "
    "lowest to its highest attention, with a frame around the chosen one, and the augmented views that the networks received."
)
_PLAIN_NOTE = "Both eyes of a pair, and below what the objective made of them."
HEAD_WIDTH = 240
"""Width of the picture of an attention head, pixels: several stand beside each other."""
_COLUMNS = (
    "viewed_left",
    "viewed_right",
    "attention",
    "head",
    "gauss",
    "window",
    "crops",
    "teacher_view",
    "student_views",
)

Arrays = NDArray[Any]


def views_note(album: Mapping[str, Arrays]) -> str:
    """Return what the panels of an album show."""
    return VIEWS_NOTE if "attention" in album else _PLAIN_NOTE


def view_panels(album: Mapping[str, Arrays]) -> str:
    """Return a panel for each viewed pair of an album (`learner.report.album.views_of`); empty if it has none."""
    if all(name in album for name in _COLUMNS):
        rows = zip(*(album[name] for name in _COLUMNS), strict=False)
        return "".join(_panel(dict(zip(_COLUMNS, row, strict=True))) for row in rows)
    eyes = [name for name in ("viewed_left", "viewed_right") if name in album]
    names = eyes + [name for name, values in album.items() if is_picture(name, values)]
    return "".join(_plain_panel(album, names, row) for row in range(len(album[eyes[0]]))) if eyes else ""


def is_picture(name: str, values: Arrays) -> bool:
    """Return whether an array of an album is what an objective saw: images [n, S, S, 3] or [n, N, S, S, 3]."""
    return (
        values.ndim in (4, 5) and values.shape[-1] == 3 and not name.startswith(("received", "viewed", "high", "low"))
    )


def _plain_panel(album: Mapping[str, Arrays], names: Sequence[str], row: int) -> str:
    """Return both eyes of a pair, and below each kind of pictures of it in a line."""
    photos = {
        name: [
            photo(image, f"{name.replace('_', ' ')}") for image in album[name][row].reshape(-1, *album[name].shape[-3:])
        ]
        for name in names
    }
    eyes = [one for name in names if name.startswith("viewed") for one in photos[name]]
    below = "".join(
        f"<h4>{escape(name.replace('_', ' '))}</h4>{grid(some, 'views')}"
        for name, some in photos.items()
        if not name.startswith("viewed")
    )
    return f'<article class="panel">{grid(eyes, "eyes")}<div class="below">{below}</div></article>'


def _panel(pair: Mapping[str, Arrays]) -> str:
    left, right, focus, crops = (pair[name] for name in ("viewed_left", "viewed_right", "window", "crops"))
    colours = [crop_colour(i, len(crops)) for i in range(len(crops))]
    left_marks = [gaussian(pair["gauss"], left), window(focus, left, "#fff")]
    right_marks = [window(crop, right, colour) for crop, colour in zip(crops, colours, strict=True)]
    eyes = [
        photo(left, "left image and the teacher's window", left_marks),
        photo(right, "right image and the student's crops", [window(focus, right, "#fff8"), *right_marks]),
    ]
    small = shrink(left, HEAD_WIDTH)
    heads = [
        photo(heat(small, one), f"attention of head {i}", classes="chosen" if i == pair["head"] else "")
        for i, one in enumerate(pair["attention"])
    ]
    views = [photo(pair["teacher_view"], "the teacher's view", classes="teacher")] + [
        f'<div style="border-color:{colour}">{photo(view, "a view of the student")}</div>'
        for view, colour in zip(pair["student_views"], colours, strict=True)
    ]
    below = grid(heads, "heads") + grid(views, "views")
    return f'<article class="panel">{grid(eyes, "eyes")}<div class="below">{below}</div></article>'
