"""Pictures of a run as elements of a page: photographs, attention, windows and crops.

Each picture is one `<svg>` with a photograph and, above it, lines in the coordinates of the photograph, sharp at every
size. Images are uint8 [H, W, 3] BGR; a window is (centre_x, centre_y, half_width, half_height) and a Gaussian
(mean_x, mean_y, std_x, std_y), both in fractions of the image's width and height.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from learner.report.html import escape
from stream.image import Image

WIDEST = 8.0
"""Largest aspect of a picture: a device may send an image that is 8192 pixels wide and 1 high."""
MAX_SIDE = 720
"""Longest side of a photograph in the page, pixels."""
JPEG_QUALITY = 88
HEAT_SHARE = 0.6
"""Share of the attention in the picture of a head; the rest is the photograph in grey."""


def photo(image: Image, title: str, marks: Sequence[str] = (), *, classes: str = "") -> str:
    """Return an image with marks (markup) drawn over it; title: text for screen readers."""
    height, width = image.shape[:2]
    return (
        f'<svg class="photo {classes}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f'<image href="{_data_uri(image)}" width="{width}" height="{height}"/>'
        f'<g class="marks">{"".join(marks)}</g></svg>'
    )


def shrink(image: Image, max_width: int, aspect: float | None = None) -> Image:
    """Return an image [H, W] or [H, W, 3] as [h, w, 3] of at most `max_width`, a grey one with three equal channels.

    aspect: width / height of the result, limited to WIDEST; None takes that of the image.
    """
    height, width = image.shape[:2]
    aspect = min(width / height if aspect is None else aspect, WIDEST)
    width = max(1, min(max_width, round(height * aspect)))
    small = cv2.resize(image, (width, max(1, round(width / aspect))), interpolation=cv2.INTER_AREA)
    return np.asarray(small if small.ndim == 3 else cv2.cvtColor(small, cv2.COLOR_GRAY2BGR), np.uint8)


def gaussian(gauss: NDArray[np.float32], image: Image) -> str:
    """Return the mark of a fitted Gaussian [4]: a cross at its mean, ellipses at one and two standard deviations."""
    height, width = image.shape[:2]
    x, y, sx, sy = np.nan_to_num(gauss.astype(float)) * (width, height, width, height)
    arm = 0.04 * min(height, width)
    rings = "".join(
        f'<ellipse class="sigma{k}" cx="{x:.2f}" cy="{y:.2f}" rx="{k * sx:.2f}" ry="{k * sy:.2f}"/>' for k in (1, 2)
    )
    cross = f"M{x - arm:.2f} {y:.2f}h{2 * arm:.2f}M{x:.2f} {y - arm:.2f}v{2 * arm:.2f}"
    return f'<g class="gauss">{rings}<path d="{cross}"/></g>'


def window(bounds: NDArray[np.float32], image: Image, colour: str) -> str:
    """Return the outline of a window [4]; colour: any CSS colour."""
    height, width = image.shape[:2]
    x, y, half_x, half_y = np.nan_to_num(bounds.astype(float)) * (width, height, width, height)
    return (
        f'<rect x="{x - half_x:.2f}" y="{y - half_y:.2f}" width="{2 * half_x:.2f}" height="{2 * half_y:.2f}" '
        f'style="stroke:{colour}"/>'
    )


def heat(image: Image, attention: NDArray[np.float32]) -> Image:
    """Return attention [h, w] in colours over the grey photograph, from its lowest (dark) to its highest value (bright)."""
    height, width = image.shape[:2]
    smooth = np.clip(cv2.resize(_share(attention), (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
    return np.asarray(HEAT_SHARE * _inferno(smooth) + (1 - HEAT_SHARE) * grey, np.uint8)


def shades(values: NDArray[Any]) -> Image:
    """Return numbers [h, w] in colours, uint8 [h, w, 3], from the lowest (dark) to the highest (bright)."""
    return np.asarray(_inferno(_share(values)), np.uint8)


def _share(values: NDArray[Any]) -> NDArray[np.float32]:
    """Scale values to 0 for the lowest and 1 for the highest."""
    share = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    share -= share.min()
    share /= max(float(share.max()), 1e-12)
    return share


def _inferno(share: NDArray[Any]) -> NDArray[np.float64]:
    """Return colours of shares, 0 to 1: BGR, 0 to 255."""
    colours: NDArray[np.float64] = mpl.colormaps["inferno"](share)[..., 2::-1] * 255
    return colours


def crop_colour(index: int, count: int) -> str:
    """Return the colour of crop `index` of `count`, used for its outline and its view."""
    return f"hsl({index * 360 / count:.0f} 90% 62%)"


def _data_uri(image: Image) -> str:
    scale = MAX_SIDE / max(image.shape[:2])
    small = image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
