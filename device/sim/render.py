"""Renders images of the simulated world through a pinhole camera, by the painter's algorithm.

A homography maps a textured plane to the image. Each visible surface is clipped to the view, warped inside its bounding box
only, and copied where its outline covers the image. Neighbouring rooms are painted through the doorways, with the outline of
the doorway as a stencil. Outlines are hard; a slight blur at the end, which stands for the lens, replaces anti-aliasing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, cos, floor, log2, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from device.sim.textures import Gallery, Texture
from device.sim.world import NOTHING, Floats, World
from stream.image import Image

NEAR_M = 1e-4
"""Surfaces nearer than this along the optical axis are not painted."""
OFF_WALL_M = 1e-3
"""An eye that is exactly in the plane of a doorway is moved this far off it."""
DOORS_DEEP = 2
"""Number of doorways in a row through which one can see; a doorway beyond them looks closed."""
GALLERY_BYTES = 12 << 20
"""Limit of the textures in memory. It is larger than one view needs, so that looking around paints no texture again."""
_CORNERS = np.array([[0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]], float)
_SUBPIXEL_BITS = 4

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Pose:
    """Position and direction of the left eye: x, y, z in metres; yaw from north to east, pitch up, roll clockwise, in radians."""

    x: float
    y: float
    z: float
    yaw: float
    pitch: float
    roll: float
    place: int
    """Index of the room."""

    @property
    def position(self) -> Floats:
        """float64 [3]: x, y, z."""
        return np.array([self.x, self.y, self.z])

    @property
    def axes(self) -> Floats:
        """Rotation, float64 [3, 3], whose rows are the camera's right, down and forward directions in the world."""
        (sy, sp, sr), (cy, cp, cr) = ([f(each) for each in (self.yaw, self.pitch, self.roll)] for f in (sin, cos))
        level = np.array([[cy, 0.0, -sy], [sy * sp, cp, cy * sp], [sy * cp, -sp, cy * cp]])
        return np.asarray(np.array([[cr, sr, 0.0], [-sr, cr, 0.0], [0.0, 0.0, 1.0]]) @ level)


@dataclass(frozen=True, slots=True)
class _Window:
    """The part of the image that may be painted: a box of pixels, and a stencil inside it (None: the whole box)."""

    left: int
    top: int
    right: int
    bottom: int
    stencil: Image | None = None

    @property
    def planes(self) -> Floats:
        """Half-spaces of homogeneous pixels (x, y, w, 1), float64 [5, 4]: before the eye, and at most a pixel outside the box."""
        return np.array(
            [
                [0, 0, 1, -NEAR_M],
                [1, 0, 1 - self.left, 0],
                [-1, 0, self.right, 0],
                [0, 1, 1 - self.top, 0],
                [0, -1, self.bottom, 0],
            ],
            float,
        )

    def around(self, outline: Floats) -> _Window:
        """Return the box that this window shares with an outline (float64 [n, 2], pixels); it may be empty."""
        (x0, y0), (x1, y1) = outline.min(axis=0).tolist(), outline.max(axis=0).tolist()
        left, top = max(floor(x0), self.left), max(floor(y0), self.top)
        return _Window(left, top, min(ceil(x1) + 1, self.right), min(ceil(y1) + 1, self.bottom))


class Renderer:
    """Paints views of one world at one size. It holds scratch images, so it is not thread-safe.

    size: height and width in pixels. focal_px: focal length in pixels; the optical axis goes through the middle of the image.
    """

    def __init__(self, world: World, size: tuple[int, int], focal_px: float) -> None:
        height, width = size
        self._world = world
        self._camera = np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]])
        self._mask = np.zeros(size, np.uint8)
        self._patch: Image = np.zeros((*size, 3), np.uint8)
        self._size = size
        self._image: Image = np.zeros((*size, 3), np.uint8)
        self._ids: Ids | None = None
        self._gallery = Gallery(GALLERY_BYTES)

    def view(self, pose: Pose, right_m: float = 0.0) -> Image:
        """Paint the view of an eye that is `right_m` metres to the right of the pose: uint8 [H, W, 3] BGR."""
        self._ids = None
        return self._render(pose, right_m)

    def labelled_view(self, pose: Pose) -> tuple[Image, Ids]:
        """Paint the view, and for each pixel give the id of the visible thing or NOTHING: int32 [H, W]."""
        self._ids = np.full(self._size, NOTHING, np.int32)
        return self._render(pose, 0.0), self._ids

    def _render(self, pose: Pose, right_m: float) -> Image:
        height, width = self._size
        axes = pose.axes
        eye = pose.position + right_m * axes[0]
        place = self._world.place_at(eye[0], eye[2], pose.place)
        self._image = np.zeros((height, width, 3), np.uint8)
        everything = _Window(0, 0, width, height)
        self._paint_room(place, self._off_doors(eye, place), self._camera @ axes, everything, DOORS_DEEP)
        return np.asarray(cv2.GaussianBlur(self._image, (3, 3), 0.5, dst=self._image), np.uint8)

    def _off_doors(self, eye: Floats, place: int) -> Floats:
        """Move an eye that is in the plane of a doorway into the room."""
        for door in self._world.rooms[place].doors:
            gap = float((door.middle - eye[[0, 2]]) @ door.outward)
            if abs(gap) < OFF_WALL_M:
                eye = eye - (OFF_WALL_M - gap) * np.array([door.outward[0], 0.0, door.outward[1]])
        return eye

    def _paint_room(self, place: int, eye: Floats, camera: Floats, window: _Window, doors_deep: int) -> None:
        """Paint the walls with their pictures, then the rooms behind the doorways, then the things that stand in the room."""
        room = self._world.rooms[place]
        bases = np.concatenate([room.surfaces, *(door.surface[None] for door in room.doors)])
        bases[:, :, 2] -= eye
        maps = camera @ bases
        outlines = _outlines(maps, window)
        count = len(room.surfaces)

        def paint(k: int) -> None:
            outline = outlines[k]
            if outline is not None:
                self._paint(self._gallery.texture(room.textures[k]), room.things[k], maps[k], outline, window)

        for k in range(room.flat):
            paint(k)
        for door, outline in zip(room.doors, outlines[count:], strict=True):
            opening = None if outline is None or not doors_deep else self._opening(outline, window)
            if opening is not None:
                self._paint_room(door.to, eye, camera, opening, doors_deep - 1)
        for k in room.paint_order(eye):
            paint(k)

    def _opening(self, outline: Floats, window: _Window) -> _Window | None:
        """Make a window of the doorway inside a window; None if no part of it is in view."""
        box = window.around(outline[:, :2])
        stencil = np.zeros(self._size, np.uint8)
        _fill(stencil, outline[:, :2])
        if window.stencil is not None:
            cv2.bitwise_and(stencil, window.stencil, dst=stencil)
        return replace(box, stencil=stencil) if stencil.any() else None

    def _paint(self, texture: Texture, thing: int, surface_map: Floats, outline: Floats, window: _Window) -> None:
        box = window.around(outline[:, :2])
        width, height = box.right - box.left, box.bottom - box.top
        if width < 1 or height < 1:
            return
        area = (slice(box.top, box.bottom), slice(box.left, box.right))
        mask = self._mask[:height, :width]
        mask.fill(0)
        _fill(mask, outline[:, :2] - (box.left, box.top))
        if window.stencil is not None:
            cv2.bitwise_and(mask, window.stencil[area], dst=mask)
        level = _level(texture, outline)
        warp = _shift(-box.left, -box.top) @ surface_map @ _texel_to_surface(level)
        patch = self._patch[:height, :width]
        cv2.warpPerspective(level, warp, (width, height), dst=patch, borderMode=cv2.BORDER_REPLICATE)
        cv2.copyTo(patch, mask, self._image[area])
        if self._ids is not None:
            np.copyto(self._ids[area], thing, where=mask.view(bool))


def _outlines(maps: Floats, window: _Window) -> list[Floats | None]:
    """Return the visible part of each surface of `maps` [N, 3, 3]: float64 [n, 4] with columns x, y (pixels), s, t.

    None for a surface that is not in view, or shows its back.
    """
    planes = window.planes
    corners = maps @ _CORNERS
    distances = planes[:, :3] @ corners + planes[:, 3:]
    inside = distances >= 0
    in_view = (np.linalg.det(maps) > 1e-9) & inside.any(axis=2).all(axis=1)
    crossed = ~inside.all(axis=2)
    outlines: list[Floats | None] = [None] * len(maps)
    for k in np.flatnonzero(in_view):
        points = np.concatenate([corners[k], _CORNERS[:2]]).T
        for plane in planes[crossed[k]]:
            points = _clip(points, points[:, :3] @ plane[:3] + plane[3])
        if len(points) >= 3:
            points[:, :2] /= points[:, 2:3]
            outlines[k] = points[:, [0, 1, 3, 4]]
    return outlines


def _clip(points: Floats, distance: Floats) -> Floats:
    """Return the part of a convex polygon [n, k] on the positive side of a plane (Sutherland and Hodgman, CACM 1974).

    distance: float64 [n], of each corner from the plane.
    """
    kept: list[Floats] = []
    for k in range(len(points)):
        before, after = float(distance[k - 1]), float(distance[k])
        if (before >= 0) != (after >= 0):
            kept.append(points[k - 1] + before / (before - after) * (points[k] - points[k - 1]))
        if after >= 0:
            kept.append(points[k])
    return np.array(kept).reshape(-1, points.shape[1])


def _fill(mask: Image, outline: Floats) -> None:
    points = np.round(outline * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillConvexPoly(mask, points, 1, cv2.LINE_8, _SUBPIXEL_BITS)


def _level(texture: Texture, outline: Floats) -> Image:
    """Choose the copy of the texture whose texels are about as large as the pixels."""
    height, width = texture[0].shape[:2]
    pixels, part = (cv2.contourArea(each) for each in outline.astype(np.float32).reshape(-1, 2, 2).swapaxes(0, 1))
    level = round(0.5 * log2(max(part * height * width / max(pixels, 1e-6), 1.0)))
    return texture[min(level, len(texture) - 1)]


def _texel_to_surface(level: Image) -> Floats:
    height, width = level.shape[:2]
    return np.array([[1 / width, 0, 0.5 / width], [0, 1 / height, 0.5 / height], [0, 0, 1]])


def _shift(x: float, y: float) -> Floats:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)
