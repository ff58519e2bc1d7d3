"""The simulated world: rooms on a grid, doorways between them, pictures on the walls, boxes and panels on the floors.

Everything is a parallelogram in space with a texture. Rooms are convex boxes, so nothing inside a room hides behind its own
walls, and its neighbours are seen only through doorways. Each thing stands in an upright cylinder, and the cylinders are
**disjoint**, so that things can be painted in the exact order of depth (see `Room.paint_order`).

Axes: x points right (east), y down, z north, in metres; the floor is at y = 0. A surface is the 3x3 matrix with columns (a, b,
o): its points are o + s a + t b with s, t in 0..1. Seen from its front, a points right and b points down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.sim.textures import Paint

Floats = NDArray[np.float64]

WALL_M = 2.7
"""Height of every room."""
DOOR_WIDTH_M, DOOR_HEIGHT_M, DOOR_FRAME_M = 1.0, 2.1, 0.08
FREE_M = 0.75
"""Half-width of the lanes between a room's centre and its doorways, where nothing stands."""
LANE_END_M = 1.0
"""Over this distance in front of a doorway the lane is straight."""
NOTHING = -1
"""The id of walls, floors, ceilings and door frames."""


@dataclass(frozen=True, slots=True)
class Doorway:
    """An opening as one of its two rooms sees it. to: index of the other room. surface: float64 [3, 3], faces this room."""

    to: int
    surface: Floats

    @property
    def middle(self) -> Floats:
        """The point (x, z) through which a walk goes."""
        a, _, o = self.surface.T
        return np.asarray((o + a / 2)[[0, 2]])

    @property
    def outward(self) -> Floats:
        """Unit normal (x, z) that points through the doorway into the other room."""
        across = self.surface[[0, 2], 0]
        return np.array([-across[1], across[0]]) / float(np.hypot(*across))


@dataclass(frozen=True, slots=True)
class Room:
    """One room.

    low, high: float64 [2], corners of the floor (x, z).
    surfaces: float64 [N, 3, 3]; the first `flat` lie on the walls, floor and ceiling and are painted in this order, the others
        belong to standing things.
    textures, things: for each surface the function that paints it, and the id of its picture or box (or NOTHING).
    owner: int64 [N - flat], for each surface of a standing thing the index of that thing in `centres` and `radii`.
    centres: float64 [M, 2] (x, z). radii: float64 [M].
    targets: float64 [K, 3], middles of the things that a walk may look at.
    """

    low: Floats
    high: Floats
    surfaces: Floats
    flat: int
    textures: tuple[Paint, ...]
    things: tuple[int, ...]
    owner: NDArray[np.int64]
    centres: Floats
    radii: Floats
    doors: tuple[Doorway, ...]
    targets: Floats

    @property
    def centre(self) -> Floats:
        """The middle of the floor: (x, z)."""
        return np.asarray((self.low + self.high) / 2)

    def paint_order(self, eye: Floats) -> NDArray[np.int64]:
        """Return the indices of the surfaces of standing things, farthest first, as seen from `eye` (x, y, z).

        If disjoint discs are sorted by their power |eye - centre|^2 - radius^2, no disc hides behind one that is painted earlier
        (Edelsbrunner, "An acyclicity theorem for cell complexes", 1990). The distance alone would not be enough.
        """
        power = ((self.centres - eye[[0, 2]]) ** 2).sum(axis=1) - self.radii**2
        return self.flat + np.argsort(-power[self.owner], kind="stable")


@dataclass(frozen=True, slots=True)
class World:
    """All rooms. A place is the index of a room, and the label in control sets."""

    rooms: tuple[Room, ...]

    def place_at(self, x: float, z: float, near: int) -> int:
        """Return the room that holds the point (x, z), among room `near` and its neighbours; `near` if none of them does."""
        for place in (near, *(door.to for door in self.rooms[near].doors)):
            (x0, z0), (x1, z1) = self.rooms[place].low, self.rooms[place].high
            if x0 <= x <= x1 and z0 <= z <= z1:
                return place
        return near


def upright(corner: tuple[float, float, float], right: tuple[float, float], height: float) -> Floats:
    """Make a vertical surface from its top left corner (x, y, z), its upper edge (x, z) and its height."""
    return np.array([(right[0], 0.0, right[1]), (0.0, height, 0.0), corner], float).T


def horizontal(x: float, y: float, z: float, width: float, depth: float) -> Floats:
    """Make a level surface from a corner, its extent along x and its signed extent along z; with depth > 0 it faces down."""
    return np.array([(width, 0.0, 0.0), (0.0, 0.0, depth), (x, y, z)], float).T


def patch(wall: Floats, left: float, top: float, width: float, height: float) -> Floats:
    """Cut out the part of a wall that begins `left` and `top` metres from its top left corner."""
    a, b, o = wall.T
    right, down = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return np.stack([right * width, down * height, o + right * left + down * top]).T
