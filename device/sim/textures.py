"""The textures of the simulated world: procedural pictures of many kinds, or real photographs from a folder.

Every texture in view is kept as a pyramid of halved copies. A far surface is sampled from a copy of about its own size on
screen, so it does not flicker (Williams, "Pyramidal parametrics", SIGGRAPH 1983). A world holds functions that paint its
textures, and a `Gallery` holds the textures seen last: all together would take more memory than the rest of a rig. Images are
uint8 [H, W, 3] BGR.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from device.camera import CameraError
from stream.image import Image

Field = NDArray[np.float32]
"""A picture before it has colours: float32 [n, n] in 0..1."""
Kind = Callable[[np.random.Generator, int], Field]
"""Draws a random picture with a given side, in pixels."""
Texture = tuple[Image, ...]
"""A pyramid: the image, its half, its quarter, ..."""
Paint = Callable[[], Image]
"""A function that paints the same image each time."""

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
PICTURE_SIDE = 128
"""Side of a procedural picture, pixels."""
PHOTO_SIDE = 256
"""Longer side of a photograph in memory, pixels; a larger one is reduced when it is read."""


def pyramid(image: Image) -> Texture:
    """Halve an image again and again, down to a side of 4 pixels."""
    levels = [image]
    while min(levels[-1].shape[:2]) >= 8:
        height, width = levels[-1].shape[:2]
        levels.append(_image(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)))
    return tuple(levels)


class Gallery:
    """The textures that were seen last, up to `limit_bytes`; another one is painted again when it is seen again."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.bytes = 0
        self._textures: OrderedDict[Paint, Texture] = OrderedDict()

    def texture(self, paint: Paint) -> Texture:
        """Return the image that `paint` makes, as a pyramid. It stays valid as long as the caller holds it."""
        texture = self._textures.pop(paint, None)
        if texture is None:
            texture = pyramid(paint())
            self.bytes += _bytes(texture)
        self._textures[paint] = texture
        while self.bytes > self._limit_bytes and len(self._textures) > 1:
            self.bytes -= _bytes(self._textures.popitem(last=False)[1])
        return texture


def repeatable(generator: np.random.Generator, draw: Callable[[np.random.Generator], Image]) -> Paint:
    """Return a function that draws the same image each time, from the present state of the generator.

    The image is drawn once now, so that the generator moves on.
    """
    state = generator.bit_generator.state
    draw(generator)

    def paint() -> Image:
        again = np.random.default_rng(0)
        again.bit_generator.state = state
        return draw(again)

    return paint


def shaded(image: Image, brightness: float) -> Image:
    """Darken an image, as if the surface is turned away from the lamp; brightness in 0..1."""
    return _image(cv2.convertScaleAbs(image, alpha=brightness))


def framed(image: Image, brightness: int) -> Image:
    """Put a thin grey frame around an image, which keeps its size; brightness of the frame in 0..255."""
    edge = max(1, min(image.shape[:2]) // 32)
    inner = cv2.resize(image, (image.shape[1] - 2 * edge, image.shape[0] - 2 * edge), interpolation=cv2.INTER_AREA)
    return _image(cv2.copyMakeBorder(inner, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=(brightness,) * 3))


def cropped(image: Image, aspect: float) -> Image:
    """Cut out the middle of an image so that width / height = aspect."""
    height, width = image.shape[:2]
    new_width, new_height = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    left, top = (width - new_width) // 2, (height - new_height) // 2
    return np.ascontiguousarray(image[top : top + new_height, left : left + new_width])


def mottled(generator: np.random.Generator, colour: tuple[int, int, int], contrast: float) -> Image:
    """Paint plaster: one BGR colour with fractal noise of +-`contrast` (a fraction); uint8 [256, 256, 3]."""
    return _tinted(1 + contrast * (2 * fractal(generator, 256, coarsest=8) - 1), colour)


def planks(generator: np.random.Generator, colour: tuple[int, int, int]) -> Image:
    """Paint a wooden floor: boards of slightly different brightness with dark joints; uint8 [512, 512, 3]."""
    side, boards = 512, 24
    x = np.arange(side) / side
    y = x[:, None]
    board = np.floor(y * boards).astype(int)
    piece = np.floor(x * 2 + generator.random(boards)[board]).astype(int)
    tone = generator.uniform(0.8, 1.1, (boards, 4))[board, piece]
    grain = cv2.resize(generator.random((side, 8)), (side, side), interpolation=cv2.INTER_CUBIC)
    joint = np.where((y * boards) % 1 < 0.1, 0.6, 1.0)
    return _tinted((tone * joint * (0.9 + 0.2 * grain)).astype(np.float32), colour)


def _tinted(brightness: Field, colour: tuple[int, int, int]) -> Image:
    tinted = brightness[..., None] * np.array(colour, np.float32)
    return np.clip(tinted, 0, 255, out=tinted).astype(np.uint8)


def picture(generator: np.random.Generator) -> Image:
    """Paint a picture of a random kind in two to four random colours."""
    kind = KINDS[generator.integers(len(KINDS))]
    field = np.clip(kind(generator, PICTURE_SIDE), 0, 1)
    colours = generator.integers(0, 256, (int(generator.integers(2, 5)), 3))
    stops = np.linspace(0, 1, len(colours))
    ramp = np.stack([np.interp(np.linspace(0, 1, 256), stops, colours[:, c]) for c in range(3)], axis=-1)
    painted = ramp.astype(np.uint8)[(255 * field).astype(np.uint8)]
    return painted if generator.random() < 0.6 else _with_shapes(painted, generator)


class Photographs:
    """Real photographs from a folder, in an order that only the generator decides.

    Raises CameraError if the folder is missing. `unreadable` counts the files that were skipped so far.
    """

    def __init__(self, folder: Path, generator: np.random.Generator) -> None:
        if not folder.is_dir():
            raise CameraError(f"textures: {folder} is not a folder; name a folder with photographs")
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
        self._folder = folder
        self._queue: deque[Path | Image] = deque(paths[k] for k in generator.permutation(len(paths)))
        self.unreadable = 0

    def __call__(self) -> Image:
        """Return the next photograph, at most PHOTO_SIDE pixels long, which must not be changed; after the last comes the first.

        Raises CameraError if no file can be read.
        """
        while self._queue:
            entry = self._queue.popleft()
            image = _read(entry) if isinstance(entry, Path) else entry
            if image is not None:
                self._queue.append(image)
                return image
            self.unreadable += 1
        raise CameraError(
            f"textures: no readable image in {self._folder} ({self.unreadable} unreadable); "
            f"put {', '.join(sorted(PHOTO_SUFFIXES))} files there or leave the option out"
        )


def _read(path: Path) -> Image | None:
    try:  # not by imread, which takes no names that are not UTF-8
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR) if path.is_file() else None
    except (cv2.error, OSError):
        return None
    if image is None or min(image.shape[:2]) < 8:
        return None
    scale = PHOTO_SIDE / max(image.shape[:2])
    if scale < 1:
        size = (max(8, round(image.shape[1] * scale)), max(8, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return _image(image)


def _bytes(texture: Texture) -> int:
    return sum(level.nbytes for level in texture)


def _image(array: NDArray[np.generic]) -> Image:
    assert array.dtype == np.uint8
    return array.view(np.uint8)


# ------------------------------------------------------------------------------------------------- kinds of pictures


def fractal(generator: np.random.Generator, side: int, coarsest: int = 4) -> Field:
    """Sum value noise over octaves, beginning with `coarsest` cells on each side; values span 0..1."""
    total = np.zeros((side, side), np.float32)
    cells = coarsest
    while cells < side:
        grid = generator.random((cells, cells), dtype=np.float32)
        total += cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC) * (coarsest / cells) ** 0.8
        cells *= 2
    low, high = float(total.min()), float(total.max())
    return np.asarray((total - low) / (high - low), np.float32)


def _axes(generator: np.random.Generator, side: int, angle_rad: float | None = None) -> tuple[Field, Field]:
    """Return two orthogonal coordinates of each pixel, in -0.5..0.5 and then turned by the angle (random by default)."""
    line = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    angle = float(generator.uniform(0, np.pi)) if angle_rad is None else angle_rad
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return np.asarray(x * cos + y * sin, np.float32), np.asarray(y * cos - x * sin, np.float32)


def _wave(phase: Field, sharp: bool) -> Field:
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * phase)
    return np.asarray(wave > 0.5 if sharp else wave, np.float32)


def _stripes(generator: np.random.Generator, side: int) -> Field:
    along, _ = _axes(generator, side)
    return _wave(along * generator.uniform(2, 9), sharp=bool(generator.integers(2)))


def _checks(generator: np.random.Generator, side: int) -> Field:
    u, v = _axes(generator, side)
    count = generator.uniform(3, 9)
    squares = (np.floor(u * count) + np.floor(v * count)) % 2
    return np.asarray(0.8 * squares + 0.2 * fractal(generator, side), np.float32)


def _blobs(generator: np.random.Generator, side: int) -> Field:
    levels = int(generator.integers(2, 6))
    smooth = cv2.GaussianBlur(fractal(generator, side, int(generator.integers(3, 9))), (0, 0), side / 40)
    return np.asarray(np.round(smooth * levels) / levels, np.float32)


def _bricks(generator: np.random.Generator, side: int) -> Field:
    x, y = _axes(generator, side, angle_rad=0.0)
    rows = int(generator.integers(4, 10))
    down = (y + 0.5) * rows
    row = np.floor(down).astype(int)
    along = (x + 0.5) * rows / 2 + 0.5 * (row % 2)
    column = np.floor(along).astype(int)
    shade = generator.uniform(0.4, 1.0, (rows + 1, rows + 2))[row, column]
    return np.where((down - row < 0.12) | (along - column < 0.06), 0, shade).astype(np.float32)


def _dots(generator: np.random.Generator, side: int) -> Field:
    u, v = _axes(generator, side)
    count, radius = generator.uniform(3, 8), generator.uniform(0.2, 0.42)
    distance = np.hypot(u * count - np.round(u * count), v * count - np.round(v * count))
    return np.asarray(np.clip((radius - distance) * side / count / 4 + 0.5, 0, 1), np.float32)


def _rings(generator: np.random.Generator, side: int) -> Field:
    u, v = _axes(generator, side)
    du, dv = generator.uniform(-0.3, 0.3, 2)
    return _wave(np.hypot(u - du, v - dv) * generator.uniform(2, 10), sharp=bool(generator.integers(2)))


def _waves(generator: np.random.Generator, side: int) -> Field:
    u, v = _axes(generator, side)
    bent = u + 0.08 * np.sin(2 * np.pi * v * generator.uniform(1, 4))
    return _wave(bent * generator.uniform(3, 10), sharp=bool(generator.integers(2)))


def _gradient(generator: np.random.Generator, side: int) -> Field:
    along, _ = _axes(generator, side)
    return np.asarray(along * 0.7 + 0.5 + 0.15 * (fractal(generator, side) - 0.5), np.float32)


def _marble(generator: np.random.Generator, side: int) -> Field:
    along, _ = _axes(generator, side)
    return _wave(along * generator.uniform(1, 3) + 1.5 * fractal(generator, side), sharp=False)


def _fractal(generator: np.random.Generator, side: int) -> Field:
    return fractal(generator, side, int(generator.integers(2, 9)))


KINDS: tuple[Kind, ...] = (_fractal, _stripes, _checks, _blobs, _bricks, _dots, _rings, _waves, _gradient, _marble)


def _with_shapes(image: Image, generator: np.random.Generator) -> Image:
    """Paint a few filled polygons and circles of random colours over a picture."""
    image = image.copy()
    side = image.shape[0]
    for _ in range(int(generator.integers(1, 6))):
        colour = [int(c) for c in generator.integers(0, 256, 3)]
        centre, radius = generator.uniform(0.15, 0.85, 2) * side, generator.uniform(0.08, 0.3) * side
        corners = int(generator.choice([3, 4, 5, 6, 24]))
        angles = generator.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
        outline = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        cv2.fillPoly(image, [np.round(outline * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)
    return image
