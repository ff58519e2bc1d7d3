"""How the wearer of the simulated rig walks from room to room, stops, and looks at things.

The walk is an endless generator whose state does not grow: the last stop, the gaze, and when each room was left last. Between two
stops it is a smooth curve through a doorway that begins and ends at rest. The motion of the head depends on the distance walked,
so it stops when the feet stop, and during a pause the pose does not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray

from device.sim.render import Pose
from device.sim.world import FREE_M, LANE_END_M, Doorway, Floats, Room, World

EYE_M = 1.4
"""Height of the rig while the wearer stands."""
SPEED_M_S = 1.0
TURN_RAD_S = 1.6
STEP_M = 0.65
"""Length of one step, during which the head moves up and down once."""


_Gaze = tuple[float, float]
"""Yaw and pitch of the head, radians."""


def generate_poses(world: World, seed: int, fps: float) -> Iterator[Pose]:
    """Yield the poses of an endless walk, `fps` per second. The seed decides all of it."""
    generator = np.random.default_rng([seed, 7])
    place = int(generator.integers(len(world.rooms)))
    stop = _stop(world.rooms[place], generator)
    gaze: _Gaze = (float(generator.uniform(-np.pi, np.pi)), 0.0)
    left_at = generator.permutation(len(world.rooms)) - len(world.rooms)
    for visit in count():
        room = world.rooms[place]
        for glance in _look_around(room, stop, (_wrapped(gaze[0]), gaze[1]), generator, fps):
            gaze = glance
            yield Pose(float(stop[0]), -EYE_M, float(stop[1]), *gaze, 0.0, place)
        left_at[place] = visit
        door = _next_door(world, place, left_at, generator)
        following = _stop(room if door is None else world.rooms[door.to], generator)
        curve = _curve(stop, door, following)
        for x, y, z, yaw, pitch, roll in _leg(curve, gaze, generator, fps):
            place, gaze = world.place_at(x, z, place), (yaw, pitch)
            yield Pose(x, y, z, yaw, pitch, roll, place)
        stop = following


def _stop(room: Room, generator: np.random.Generator) -> Floats:
    """Choose where to stand: (x, z) near the middle, in the disc that is free of things."""
    angle, distance = generator.uniform(0, 2 * np.pi), 0.9 * FREE_M * np.sqrt(generator.random())
    return np.asarray(room.centre + distance * np.array([np.cos(angle), np.sin(angle)]))


def _next_door(world: World, place: int, left_at: NDArray[np.int64], generator: np.random.Generator) -> Doorway | None:
    """Choose a doorway, mostly towards the room that was left longest ago; None in a world of one room.

    left_at: int64 [rooms], the number of the visit after which each room was left.
    """
    doors = world.rooms[place].doors
    if not doors:
        return None
    if generator.random() < 0.15:
        return doors[int(generator.integers(len(doors)))]
    away = _doors_away(world, int(np.argmin(left_at)))
    return min(doors, key=lambda door: away[door.to])


def _doors_away(world: World, goal: int) -> dict[int, int]:
    """Count the doorways between each room and the goal."""
    away, reached = {goal: 0}, [goal]
    for place in reached:
        for door in world.rooms[place].doors:
            if door.to not in away:
                away[door.to] = away[place] + 1
                reached.append(door.to)
    return away


def _look_around(room: Room, stop: Floats, gaze: _Gaze, generator: np.random.Generator, fps: float) -> Iterator[_Gaze]:
    """Turn to one to three things, one after the other, and look at each for a while; yields the gaze of each frame."""
    for _ in range(int(generator.integers(1, 4))):
        x, y, z = room.targets[int(generator.integers(len(room.targets)))]
        across, ahead = x - stop[0], z - stop[1]
        turn = _wrapped(float(np.arctan2(across, ahead)) - gaze[0])
        tilt = 0.7 * float(np.clip(np.arctan2(-EYE_M - y, np.hypot(across, ahead)), -0.5, 0.3)) - gaze[1]
        frames = max(1, round(fps * _turning_s(turn)))
        start = gaze
        for k in range(1, frames + 1):
            gaze = (start[0] + _ease(k / frames) * turn, start[1] + _ease(k / frames) * tilt)
            yield gaze
        for _ in range(round(fps * float(generator.uniform(1.0, 2.4)))):
            yield gaze


def _leg(curve: Floats, gaze: _Gaze, generator: np.random.Generator, fps: float) -> Iterator[tuple[float, ...]]:
    """Walk along a curve while the head turns to both sides; yields x, y, z, yaw, pitch and roll of each frame."""
    walked = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(curve, axis=0).T))])
    headings = np.unwrap(np.arctan2(*np.gradient(curve, axis=0).T))
    headings += gaze[0] + _wrapped(float(headings[0]) - gaze[0]) - headings[0]
    turning = fps * _turning_s(float(headings[0]) - gaze[0])
    frames = max(2, round(fps * float(walked[-1]) / SPEED_M_S))
    swing, swings = float(generator.uniform(-0.8, 0.8)), int(generator.integers(1, 3))
    for k in range(1, frames + 1):
        at, lively = float(walked[-1]) * _ease(k / frames), float(np.sin(np.pi * k / frames)) ** 2
        x, z, heading = (float(np.interp(at, walked, each)) for each in (*curve.T, headings))
        heading += swing * float(np.sin(2 * np.pi * swings * k / frames))
        turned = _ease(min(1.0, k / turning))
        bob, sway = (lively * float(np.sin(2 * np.pi * at / length)) for length in (STEP_M, 2 * STEP_M))
        yaw = gaze[0] + turned * (heading - gaze[0]) + 0.015 * sway
        pitch = (1 - turned) * gaze[1] + 0.012 * bob - 0.08 * lively
        yield x, -EYE_M + 0.02 * bob, z, yaw, pitch, 0.02 * sway


def _turning_s(angle: float) -> float:
    return 0.4 + abs(angle) / TURN_RAD_S


def _curve(start: Floats, door: Doorway | None, end: Floats) -> Floats:
    """Return points float64 [n, 2] of a smooth path from start to end, straight through the middle of the doorway."""
    if door is None:
        return np.asarray(start + np.linspace(0, 1, 33)[:, None] * (end - start))
    before, after = door.middle - LANE_END_M * door.outward, door.middle + LANE_END_M * door.outward
    return np.concatenate([_bezier(start, before, door.middle), _bezier(door.middle, after, end)[1:]])


def _bezier(start: Floats, control: Floats, end: Floats) -> Floats:
    part = np.linspace(0, 1, 33)[:, None]
    return np.asarray((1 - part) ** 2 * start + 2 * part * (1 - part) * control + part**2 * end)


def _ease(part: float) -> float:
    """Return a smooth function of `part`, both from 0 to 1, whose slope is 0 at both ends."""
    return part * part * (3 - 2 * part)


def _wrapped(angle: float) -> float:
    """Return the same angle between -pi and pi."""
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
