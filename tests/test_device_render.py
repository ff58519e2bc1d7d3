"""The simulated world's geometry against closed forms and against a ray caster."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from device.sim.furnish import build_world
from device.sim.render import DOORS_DEEP, Pose, Renderer
from device.sim.trajectory import generate_poses
from device.sim.world import NOTHING, Floats, Room, World, upright

SIZE = (120, 160)
FOCAL_PX = 150.0
AHEAD = Pose(x=0.0, y=0.0, z=0.0, yaw=0.0, pitch=0.0, roll=0.0, place=0)
BASELINE_M = 0.06


def flat_image(colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.full((64, 64, 3), colour, np.uint8)


def spot() -> NDArray[np.uint8]:
    image = flat_image((0, 0, 0))
    image[24:40, 24:40] = 255
    return image


def screen(z: float, half_m: float, x: float = 0.0) -> Floats:
    """A square that faces the eye at the origin, z metres ahead."""
    return upright((x - half_m, -half_m, z), (2 * half_m, 0.0), 2 * half_m)


def scene(shell: list[tuple[Floats, NDArray[np.uint8]]], standing: list[tuple[Floats, NDArray[np.uint8]]]) -> World:
    """One room made by hand; each standing surface is a thing in its own small disc, ids count from 0."""
    surfaces, images = zip(*shell, *standing, strict=True)
    middles = np.array([base @ (0.5, 0.5, 1.0) for base, _ in standing]).reshape(-1, 3)
    things = [NOTHING] * len(shell) + list(range(len(standing)))
    far = np.array([50.0, 50.0])
    room = Room(
        low=-far,
        high=far,
        surfaces=np.stack(surfaces),
        flat=len(shell),
        textures=tuple(partial(np.copy, image) for image in images),
        things=tuple(things),
        owner=np.arange(len(standing)),
        centres=middles[:, [0, 2]],
        radii=np.full(len(standing), 0.01),
        doors=(),
        targets=middles,
    )
    return World((room,))


def centroid_x(image: NDArray[np.uint8]) -> float:
    weight = image[..., 0].astype(float)
    return float((weight * np.arange(weight.shape[1])).sum() / weight.sum())


@pytest.mark.parametrize("depth_m", [0.8, 1.3, 2.0, 3.5, 6.0])
def test_the_disparity_of_a_plane_is_focal_length_times_baseline_over_depth(depth_m: float) -> None:
    world = scene([(screen(depth_m, 0.3 * depth_m), spot())], [])
    renderer = Renderer(world, SIZE, FOCAL_PX)
    left, right = renderer.view(AHEAD), renderer.view(AHEAD, BASELINE_M)
    disparity = centroid_x(left) - centroid_x(right)
    assert disparity == pytest.approx(FOCAL_PX * BASELINE_M / depth_m, abs=0.1)


def test_a_nearer_thing_lies_further_left_in_the_right_image_than_a_farther_one() -> None:
    disparities = []
    for depth_m in (1.0, 4.0):
        renderer = Renderer(scene([(screen(depth_m, 0.5), spot())], []), SIZE, FOCAL_PX)
        disparities.append(centroid_x(renderer.view(AHEAD)) - centroid_x(renderer.view(AHEAD, BASELINE_M)))
    near, far = disparities
    assert near > far > 0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_of_two_planes_hides_the_farther_in_both_eyes_where_geometry_says(order: tuple[int, int]) -> None:
    red, green, blue = flat_image((0, 0, 255)), flat_image((0, 255, 0)), flat_image((255, 0, 0))
    standing = [(screen(1.0, 0.15), red), (screen(2.0, 0.5), green)]
    world = scene([(screen(4.0, 4.0), blue)], [standing[k] for k in order])
    renderer = Renderer(world, SIZE, FOCAL_PX)
    for eye_m in (0.0, BASELINE_M):
        row = renderer.view(AHEAD, eye_m)[SIZE[0] // 2].argmax(axis=-1)
        middle = (SIZE[1] - 1) / 2
        for channel, depth_m, half_m in ((2, 1.0, 0.15), (1, 2.0, 0.5)):
            columns = np.flatnonzero(row == channel)
            expected = [middle + FOCAL_PX * (side * half_m - eye_m) / depth_m for side in (-1, 1)]
            assert columns[[0, -1]] == pytest.approx(expected, abs=1.01)
        assert (row[[0, -1]] == 0).all()


def test_yaw_turns_to_the_right_pitch_looks_up_and_roll_is_clockwise() -> None:
    right, down, forward = replace(AHEAD, yaw=np.pi / 2).axes
    assert np.allclose([right, down, forward], [[0, 0, -1], [0, 1, 0], [1, 0, 0]])
    assert replace(AHEAD, pitch=0.3).axes[2][1] < 0
    assert replace(AHEAD, roll=0.3).axes[0][1] > 0
    turned = replace(AHEAD, yaw=0.7, pitch=-0.4, roll=0.2).axes
    assert np.allclose(turned @ turned.T, np.eye(3))
    assert np.linalg.det(turned) == pytest.approx(1.0)


@st.composite
def disjoint_discs(draw: st.DrawFn) -> Floats:
    """[n, 3] with columns x, z, radius; the eye at the origin is in none of them."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    discs: list[NDArray[np.float64]] = []
    for _ in range(draw(st.integers(2, 40))):
        x, z, radius = generator.uniform((-3, -3, 0.05), (3, 3, 1.2))
        if np.hypot(x, z) > radius and all(np.hypot(x - u, z - v) > radius + r for u, v, r in discs):
            discs.append(np.array([x, z, radius]))
    return np.array(discs).reshape(-1, 3)


@settings(max_examples=60)
@given(disjoint_discs())
@example(np.array([[1.19, 2.0, 1.2], [0.0, 2.25, 0.01]]))  # the centre of what is nearer lies farther away
def test_things_in_disjoint_discs_are_painted_from_far_to_near_along_every_ray(discs: Floats) -> None:
    world = scene([(screen(9.0, 1.0), spot())], [(screen(1.0, 0.1), spot())] * len(discs))
    room = replace(world.rooms[0], centres=discs[:, :2], radii=discs[:, 2])
    painted = room.paint_order(np.zeros(3)) - room.flat
    for angle in np.linspace(0, 2 * np.pi, 73):
        along = discs[:, :2] @ (np.cos(angle), np.sin(angle))
        beside = discs[:, :2] @ (-np.sin(angle), np.cos(angle))
        hit = [k for k in painted if along[k] > 0 and abs(beside[k]) < discs[k, 2]]
        assert all(along[far] > along[near] for far, near in pairwise(hit))


@pytest.fixture(scope="module")
def small_world() -> World:
    return build_world(5, seed=3)


def met_first(world: World, eye: Floats, ray: Floats, place: int, doors: int = DOORS_DEEP) -> int:
    """The id of the thing that a ray from inside a room meets: a simple and slow ray caster."""
    room = world.rooms[place]
    bases = np.concatenate([room.surfaces, *(door.surface[None] for door in room.doors)])
    solved = np.linalg.solve(np.stack([bases[:, :, 0], bases[:, :, 1], np.broadcast_to(-ray, (len(bases), 3))], -1),
                             (eye - bases[:, :, 2])[..., None])[..., 0]  # fmt: skip
    inside = ((solved[:, :2] >= 0) & (solved[:, :2] <= 1)).all(axis=1) & (solved[:, 2] > 0)
    inside &= np.linalg.det(np.concatenate([bases[:, :, :2], bases[:, :, 2:] - eye[:, None]], axis=2)) > 0
    standing = [k for k in range(room.flat, len(room.surfaces)) if inside[k]]
    if standing:
        return room.things[min(standing, key=lambda k: float(solved[k, 2]))]
    for door, hit in zip(room.doors, inside[len(room.surfaces) :], strict=True):
        if hit and doors:
            return met_first(world, eye, ray, door.to, doors - 1)
    return room.things[max(k for k in range(room.flat) if inside[k])]


def test_every_pixel_shows_the_thing_that_a_ray_through_it_meets_first(small_world: World) -> None:
    renderer = Renderer(small_world, SIZE, FOCAL_PX)
    generator = np.random.default_rng(0)
    checked = 0
    for pose in islice(generate_poses(small_world, 1, 10.0), 0, 1500, 15):
        _, ids = renderer.labelled_view(pose)
        for row, column in generator.integers(2, (SIZE[0] - 2, SIZE[1] - 2), (30, 2)):
            around = ids[row - 2 : row + 3, column - 2 : column + 3]
            if (around != around[0, 0]).any():
                continue  # an outline, where half a pixel decides
            pixel = np.array([(column - (SIZE[1] - 1) / 2) / FOCAL_PX, (row - (SIZE[0] - 1) / 2) / FOCAL_PX, 1.0])
            assert met_first(small_world, pose.position, pixel @ pose.axes, pose.place) == ids[row, column]
            checked += 1
    assert checked > 2000


def test_no_view_has_a_hole_even_from_within_a_doorway(small_world: World) -> None:
    renderer = Renderer(small_world, SIZE, FOCAL_PX)
    poses = list(islice(generate_poses(small_world, 2, 10.0), 0, 600, 30))
    generator = np.random.default_rng(1)
    doors = [(place, door) for place, room in enumerate(small_world.rooms) for door in room.doors]
    for place, door in doors:
        for off_m in (-1e-2, -1e-4, 0.0, 1e-6, 1e-3, 1e-2):
            x, z = door.middle + off_m * door.outward
            yaw = float(generator.uniform(-np.pi, np.pi))
            poses.append(Pose(float(x), -1.4, float(z), yaw, 0.0, 0.0, place))
    for pose in poses:
        assert renderer.view(pose).any(axis=-1).all(), pose
        assert renderer.view(pose, BASELINE_M).any(axis=-1).all(), pose


def test_a_world_keeps_its_layout_with_other_pictures() -> None:
    plain, hung = build_world(3, seed=4), build_world(3, seed=4, photograph=spot)
    for one, other in zip(plain.rooms, hung.rooms, strict=True):
        assert np.array_equal(one.surfaces, other.surfaces)
        assert one.things == other.things


@settings(max_examples=6)
@given(places=st.integers(1, 12), seed=st.integers(0, 2**62))
def test_every_room_of_any_world_can_be_reached_and_holds_things_to_look_at(places: int, seed: int) -> None:
    world = build_world(places, seed, photograph=spot)
    reached = [0]
    for place in reached:
        reached += [door.to for door in world.rooms[place].doors if door.to not in reached]
    assert sorted(reached) == list(range(places))
    for room in world.rooms:
        assert len(room.targets) >= 10
        gaps = np.hypot(*(room.centres[:, None] - room.centres).transpose(2, 0, 1)) - room.radii[:, None] - room.radii
        assert (gaps[~np.eye(len(gaps), dtype=bool)] > 0).all()
