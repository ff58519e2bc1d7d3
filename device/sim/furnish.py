"""Builds the rooms of the simulated world and their furniture from a seed.

Rooms of unequal sizes form a grid. A random spanning tree of doorways connects them, with some more doorways added. Every wall
has two rows of pictures, and boxes and panels stand where nobody walks. Walls, floors and ceilings have nearly the same colour
everywhere, so a room is recognised by its pictures and things. Pictures and layout have random generators of their own, so
photographs do not change where things stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from device.sim.textures import Paint, cropped, framed, mottled, picture, planks, repeatable, shaded
from device.sim.world import (
    DOOR_FRAME_M,
    DOOR_HEIGHT_M,
    DOOR_WIDTH_M,
    FREE_M,
    LANE_END_M,
    NOTHING,
    WALL_M,
    Doorway,
    Floats,
    Room,
    World,
    horizontal,
    patch,
    upright,
)
from stream.image import Image

SIDE_M = (4.2, 5.6)
"""Range of the widths and depths of rooms."""
NORTH, EAST, SOUTH, WEST = range(4)


def build_world(places: int, seed: int, photograph: Callable[[], Image] | None = None) -> World:
    """Build a world of `places` (>= 1) rooms. photograph: gives the next picture to hang; None: pictures are procedural."""
    pictures = np.random.default_rng([seed, 2])

    def hang() -> Paint:
        return repeatable(pictures, picture) if photograph is None else partial(_same, photograph())

    plan = _draw_plan(places, np.random.default_rng([seed, 0]))
    ids = iter(range(1 << 30))
    rooms = (_Furnisher(np.random.default_rng([seed, 1, place]), hang, ids) for place in range(places))
    return World(tuple(room.furnish(place, plan) for place, room in enumerate(rooms)))


# --------------------------------------------------------------------------------------------------- the floor plan


@dataclass(frozen=True, slots=True)
class _Plan:
    """The plan of the world. corners: float64 [P, 2, 2], low and high (x, z) of each room, metres.

    doorways: for each pair of neighbouring rooms the middle of the doorway, in metres along their common wall.
    """

    columns: int
    corners: Floats
    doorways: dict[tuple[int, int], float]

    def doors(self, place: int) -> Iterator[tuple[int, int, float]]:
        """Yield (wall, room behind it, middle in metres from the wall's left end) for each doorway of a room."""
        (x0, z0), (x1, z1) = self.corners[place]
        for (one, other), at in self.doorways.items():
            if place in (one, other):
                beside = other == one + 1 and self.columns > 1
                wall = (EAST if beside else NORTH) if place == one else (WEST if beside else SOUTH)
                yield wall, other if place == one else one, (at - x0, z1 - at, x1 - at, at - z0)[wall]


def _draw_plan(places: int, generator: np.random.Generator) -> _Plan:
    columns = int(np.ceil(np.sqrt(places)))
    x, z = (np.concatenate([[0.0], np.cumsum(generator.uniform(*SIDE_M, columns))]) for _ in range(2))
    row, column = np.divmod(np.arange(places), columns)
    corners = np.stack([np.stack([x[column], z[row]], -1), np.stack([x[column + 1], z[row + 1]], -1)], axis=1)
    return _Plan(columns, corners, _draw_doorways(columns, corners, generator))


def _draw_doorways(columns: int, corners: Floats, generator: np.random.Generator) -> dict[tuple[int, int], float]:
    """Draw a random spanning tree, so that every room can be reached; most of the other shared walls get a doorway too."""
    places = len(corners)
    shared = [(p, p + 1, 1) for p in range(places - 1) if (p + 1) % columns]
    shared += [(p, p + columns, 0) for p in range(places - columns)]
    group = list(range(places))
    doorways: dict[tuple[int, int], float] = {}
    for k in generator.permutation(len(shared)):
        one, other, axis = shared[k]
        if group[one] == group[other] and generator.random() < 0.3:
            continue
        group = [group[one] if g == group[other] else g for g in group]
        low, high = corners[one, :, axis]
        doorways[one, other] = float(generator.uniform(low + 1.3, high - 1.3))
    return doorways


# ---------------------------------------------------------------------------------------------------- the furniture


class _Furnisher:
    """Collects the surfaces of one room. hang: gives the next picture. ids: counts things in the whole world."""

    def __init__(self, generator: np.random.Generator, hang: Callable[[], Paint], ids: Iterator[int]) -> None:
        self._draw = generator
        self._hang = hang
        self._ids = ids
        self._surfaces: list[tuple[Floats, Paint, int]] = []
        self._targets: list[Floats] = []
        self._discs: list[tuple[float, float, float]] = []
        self._owner: list[int] = []

    def furnish(self, place: int, plan: _Plan) -> Room:
        """Make the room with the index `place`."""
        low, high = plan.corners[place]
        walls = _walls(*low, *high)
        gaps = [(wall, middle - DOOR_WIDTH_M / 2) for wall, _, middle in plan.doors(place)]
        openings = [
            patch(walls[wall], left, WALL_M - DOOR_HEIGHT_M, DOOR_WIDTH_M, DOOR_HEIGHT_M) for wall, left in gaps
        ]
        doors = tuple(Doorway(to, opening) for (_, to, _), opening in zip(plan.doors(place), openings, strict=True))
        self._add_shell(walls, low, high)
        for index, wall in enumerate(walls):
            self._add_gallery(wall, [left for at, left in gaps if at == index])
        flat = len(self._surfaces)
        self._add_things(low, high, doors)
        surfaces, textures, things = zip(*self._surfaces, strict=True)
        discs = np.array(self._discs, float).reshape(-1, 3)
        owner, targets = np.array(self._owner, np.int64), np.array(self._targets, float).reshape(-1, 3)
        return Room(
            low, high, np.stack(surfaces), flat, textures, things, owner, discs[:, :2], discs[:, 2], doors, targets
        )

    def _add_shell(self, walls: tuple[Floats, ...], low: Floats, high: Floats) -> None:
        """Add walls, ceiling and floor. Walls come first, so that the others cover the pixels that both outlines touch."""
        (x0, z0), (x1, z1) = low, high
        colour = self._near((190, 198, 202))
        plaster = repeatable(self._draw, lambda generator: mottled(generator, colour, 0.1))
        for wall, brightness in zip(walls, (1.0, 0.9, 0.95, 0.86), strict=True):
            self._add(wall, partial(_lit, plaster, brightness))
        ceiling = repeatable(self._draw, lambda generator: mottled(generator, (215, 218, 220), 0.04))
        self._add(horizontal(x0, -WALL_M, z0, x1 - x0, z1 - z0), ceiling)
        wood = self._near((70, 95, 120))
        floor = repeatable(self._draw, lambda generator: planks(generator, wood))
        self._add(horizontal(x0, 0.0, z1, x1 - x0, z0 - z1), floor)

    def _near(self, colour: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return a similar colour, which differs less than the light does from walk to walk."""
        blue, green, red = (int(c) for c in self._draw.integers(-8, 9) + self._draw.integers(-3, 4, 3))
        return colour[0] + blue, colour[1] + green, colour[2] + red

    def _add_gallery(self, wall: Floats, doors: list[float]) -> None:
        """Add door frames, and two rows of pictures. doors: left ends of the doorways, metres from the wall's left end."""
        above, edge = WALL_M - DOOR_HEIGHT_M, DOOR_FRAME_M
        for left in doors:
            leaf = patch(wall, left - edge, above - edge, DOOR_WIDTH_M + 2 * edge, DOOR_HEIGHT_M + edge)
            self._add(leaf, partial(_plain, (58, 74, 92)))
        for top, tallest in ((0.1, 1.25), (1.42, 1.2)):
            for left, width in self._spans(float(np.linalg.norm(wall[:, 0])), doors):
                height = tallest * float(self._draw.uniform(0.8, 1.0))
                drop = float(self._draw.uniform(0, tallest - height))
                self._add_picture(patch(wall, left, top + drop, width, height), width / height)

    def _spans(self, length: float, doors: list[float]) -> Iterator[tuple[float, float]]:
        """Yield (left, width) in metres of the pictures in one row on a wall of this length."""
        keep_off = DOOR_FRAME_M + 0.05
        left = float(self._draw.uniform(0.08, 0.35))
        while left < length - 0.75:
            width = min(float(self._draw.uniform(0.85, 1.6)), length - 0.08 - left)
            hit = [door for door in doors if left < door + DOOR_WIDTH_M + keep_off and left + width > door - keep_off]
            if not hit:
                yield left, width
                left += width + float(self._draw.uniform(0.06, 0.25))
            else:
                if hit[0] - keep_off - left > 0.7:
                    yield left, hit[0] - keep_off - left
                left = hit[0] + DOOR_WIDTH_M + keep_off

    def _add_picture(self, base: Floats, aspect: float) -> None:
        self._targets.append(base @ (0.5, 0.5, 1.0))
        grey = int(self._draw.choice([25, 60, 235]))
        self._add(base, partial(_poster, self._hang(), aspect, grey), next(self._ids))

    def _add_things(self, low: Floats, high: Floats, doors: tuple[Doorway, ...]) -> None:
        """Add six to twelve boxes and panels, or fewer if there is no room.

        They stand in discs that do not overlap, away from the lanes on which a walk crosses the room.
        """
        centre = (low + high) / 2
        lanes = [np.stack([centre, door.middle - LANE_END_M * door.outward, door.middle]) for door in doors]
        wanted = int(self._draw.integers(6, 13))
        for _ in range(60 * wanted):
            radius = float(self._draw.uniform(0.22, 0.5))
            spot = self._draw.uniform(low + radius + 0.03, high - radius - 0.03)
            apart = all(np.hypot(spot[0] - x, spot[1] - z) > radius + other for x, z, other in self._discs)
            if apart and all(_distance(spot, lane) > radius + FREE_M for lane in (*lanes, centre[None])):
                self._discs.append((float(spot[0]), float(spot[1]), radius))
                self._add_thing(*self._discs[-1])
            if len(self._discs) == wanted:
                break

    def _add_thing(self, x: float, z: float, radius: float) -> None:
        """Add a box on the floor, or a panel with a picture on both sides, inside its disc."""
        panel = self._draw.random() < 0.35
        half = 0.0 if panel else float(self._draw.uniform(0.17, 0.25)) * np.pi
        ends = np.array([0.0, np.pi]) if panel else np.array([-half, half, np.pi - half, np.pi + half])
        angles = float(self._draw.uniform(0, 2 * np.pi)) + ends
        corners = np.stack([x + radius * np.cos(angles), z + radius * np.sin(angles)], axis=-1)
        tall = 2 * radius * float(self._draw.uniform(0.7, 1.5 if panel else 1.2))
        bottom = float(self._draw.uniform(0.3, 0.9)) if panel else 0.0
        thing, owner = next(self._ids), len(self._discs) - 1
        self._targets.append(np.array([x, -bottom - tall / 2, z]))
        # Anticlockwise from above (x right, z up): seen from outside, the next corner is the right one of a side.
        for k, (left, right) in enumerate(zip(corners, np.roll(corners, -1, axis=0), strict=True)):
            side = upright((left[0], -bottom - tall, left[1]), (right[0] - left[0], right[1] - left[1]), tall)
            aspect = float(np.hypot(*(right - left))) / tall
            self._add(side, partial(_poster, self._hang(), aspect, 40, 1.0 - 0.1 * (k % 2)), thing, owner)
        if not panel:
            self._add(_lid(corners, tall), partial(_plain, (90, 110, 130)), thing, owner)

    def _add(self, base: Floats, paint: Paint, thing: int = NOTHING, owner: int | None = None) -> None:
        self._surfaces.append((base, paint, thing))
        if owner is not None:
            self._owner.append(owner)


def _same(image: Image) -> Image:
    return image


def _lit(paint: Paint, brightness: float) -> Image:
    return shaded(paint(), brightness)


def _poster(paint: Paint, aspect: float, grey: int, brightness: float = 1.0) -> Image:
    return shaded(framed(cropped(paint(), aspect), grey), brightness)


def _plain(colour: tuple[int, int, int]) -> Image:
    return np.full((8, 8, 3), colour, np.uint8)


def _lid(corners: Floats, tall: float) -> Floats:
    """Return the top of a box as a surface. corners: [4, 2], (x, z), anticlockwise as seen from above. tall: height in metres."""
    (x, z), right, up = corners[3], corners[2] - corners[3], corners[0] - corners[3]
    return np.array([(right[0], 0, right[1]), (up[0], 0, up[1]), (x, -tall, z)], float).T


def _walls(x0: float, z0: float, x1: float, z1: float) -> tuple[Floats, ...]:
    """Return the north, east, south and west wall, seen from inside."""
    return (
        upright((x0, -WALL_M, z1), (x1 - x0, 0.0), WALL_M),
        upright((x1, -WALL_M, z1), (0.0, z0 - z1), WALL_M),
        upright((x1, -WALL_M, z0), (x0 - x1, 0.0), WALL_M),
        upright((x0, -WALL_M, z0), (0.0, z1 - z0), WALL_M),
    )


def _distance(point: Floats, line: Floats) -> float:
    """Return the distance of a point [2] from a polyline [n, 2]."""
    best = float(np.linalg.norm(point - line[0]))
    for start, end in pairwise(line):
        edge = end - start
        along = np.clip((point - start) @ edge / (edge @ edge), 0, 1)
        best = min(best, float(np.linalg.norm(point - start - along * edge)))
    return best
