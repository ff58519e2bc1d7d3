"""Crops land where the Gaussian says: bright objects at known places of a pinhole stereo rig, found by a planted attention.

From the pair as it is received: squeezed onto the canvas, looked at, cut. Places are in pixels of the camera's image, where a
point at depth Z lies in the right eye focal * baseline / Z to the left of where the left eye has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_objective import ENCODER, PLAIN, agent, numpy, seeded, viewed
from torch import Tensor, nn

from learner.memory.config import MemoryConfig
from learner.memory.decoding import decode_onto
from learner.memory.memory import Memory
from learner.networks.encoder import Encoder
from learner.objectives.contract import Batch, Objective
from learner.views.guided import GuidedMaker, GuidedViews
from stream.codec import encode_pair

Array = NDArray[np.float64]

pytestmark = pytest.mark.usefixtures("one_thread")

BASELINE_M = 0.06
CROPS = 12


@dataclass(frozen=True)
class Rig:
    """Two pinhole cameras side by side; sizes in pixels."""

    height: int
    width: int

    @property
    def spread(self) -> float:
        """Standard deviation of an object's brightness: wide enough for the canvas, small beside the image."""
        return 0.03 * min(self.height, self.width)

    def disparity(self, depth_m: float) -> float:
        return 0.8 * self.width * BASELINE_M / depth_m

    def blob(self, x: float, y: float) -> Array:
        """Brightness 0 to 255 of an object around (x, y): [H, W]."""
        xs, ys = np.arange(self.width) + 0.5, np.arange(self.height)[:, None] + 0.5
        return np.asarray(255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * self.spread**2)))

    def eyes(self, x: float, y: float, depth_m: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The object is red to the left eye and green to the right one, so that no eye is taken for the other."""
        left, right = np.zeros((2, self.height, self.width, 3))
        left[..., 2] = self.blob(x, y)
        right[..., 1] = self.blob(x - self.disparity(depth_m), y)
        return left.round().astype(np.uint8), right.round().astype(np.uint8)


class Bright(Encoder):
    """Its one head looks at what is bright in the image that it is given."""

    def attention(self, rgb: Tensor) -> Tensor:
        maps = nn.functional.avg_pool2d(rgb.sum(1, keepdim=True), self.patch_size)
        return maps / maps.sum((2, 3), keepdim=True)


def looks_with(objective: Objective[Any], encoder: Encoder) -> None:
    """Let this encoder say where the objective's views lie."""
    assert isinstance(objective.views, GuidedMaker)
    objective.views.encoder = encoder


def looked_at(rig: Rig, objects: Array, canvas: tuple[int, int], **changes: Any) -> GuidedViews:
    """The views of one pair for each object (x, y, depth)."""
    memory = Memory(MemoryConfig(capacity=8, fresh_capacity=8, canvas=canvas), seed=0)
    for seq, place in enumerate(objects):
        left, right = rig.eyes(*place)
        pair = encode_pair(left, right, device="rig", epoch="a" * 32, seq=seq, left_ns=seq, right_ns=seq, codec="lz4")
        memory.add(decode_onto(canvas, pair))
    batch: Batch = memory.batch(memory.draw(len(objects)), torch.device("cpu"))
    settings: dict[str, Any] = {
        "crops": CROPS,
        "attention_size": 256,
        "student_size": 32,
        "window_sigmas": 8.0,
        "smallest_window": 0.05,
        "student_scale": (0.6, 1.0),
    }
    objective = agent(teacher_augmentation=PLAIN, student_augmentation=PLAIN, **{**settings, **changes})
    looks_with(objective, Bright(ENCODER))
    return viewed(objective, batch, seeded())


def centroid(view: Array) -> Array:
    """Centre of mass (x, y) of a colour [S, S], in fractions of the side."""
    at = (np.arange(len(view)) + 0.5) / len(view)
    return np.asarray(np.array([view.sum(0) @ at, view.sum(1) @ at]) / view.sum())


def places(rig: Rig) -> Array:
    """In the middle, beside it, and as near to each border as the whole object is seen by both eyes: (x, y, depth)."""
    near, depths = 4 * rig.spread, np.array([0.9, 2.0, 1.2, 4.0, 1.5])
    left, right, top, bottom = near + rig.disparity(0.9), rig.width - near, near, rig.height - near
    middle_x, middle_y = rig.width / 2, rig.height / 2
    xs = np.array([left, middle_x, 0.6 * rig.width, right, middle_x + 3.3])
    ys = np.array([middle_y, top, 0.45 * rig.height, bottom, middle_y - 2.1])
    return np.stack([xs, ys, depths], 1)


SHAPES = [
    ((240, 320), (96, 128)),  # squeezed alike
    ((120, 396), (96, 128)),  # KITTI's shape on a canvas of another
    ((320, 200), (96, 128)),  # upright
    ((180, 240), (128, 96)),
]


@pytest.mark.parametrize(("size", "canvas"), SHAPES)
def test_the_past_network_sees_its_object_where_the_gaussian_puts_it(
    size: tuple[int, int], canvas: tuple[int, int]
) -> None:
    rig = Rig(*size)
    objects, sides = places(rig), np.array([rig.width, rig.height])
    view = looked_at(rig, objects, canvas)
    assert np.allclose(view.gauss[:, :2], objects[:, :2] / sides, atol=0.5 / 32), "within half a patch"
    for crop, window, place in zip(numpy(view.large[:, 0]), numpy(view.window), objects[:, :2] / sides, strict=True):
        red, green, blue = crop
        centre, half = window[:2], window[2:]
        assert centroid(red) == pytest.approx((place - centre) / (2 * half) + 0.5, abs=0.005)
        inside = np.clip(place, half, 1 - half)
        assert centre == pytest.approx(inside, abs=0.5 / 32), "in the middle, but where the border is nearer"
        assert not green.any()
        assert not blue.any()
    away = np.abs(numpy(view.window[:, :2]) - objects[:, :2] / sides).max(1)
    assert (away[[1, 3]] > 0.03).all(), "some are near a border"
    assert (away[[2, 4]] < 0.5 / 32).all()


@pytest.mark.parametrize(("size", "canvas"), SHAPES)
def test_the_object_is_as_round_in_the_crop_as_on_the_scene(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    rig = Rig(*size)
    view = looked_at(rig, places(rig), canvas)
    for red, half_y in zip(numpy(view.large[:, 0][:, 0]), numpy(view.window[:, 3]), strict=True):
        at = (np.arange(32) + 0.5) / 32
        spreads = [
            np.sqrt(np.average((at - np.average(at, weights=marginal)) ** 2, weights=marginal))
            for marginal in (red.sum(0), red.sum(1))
        ]
        assert spreads == pytest.approx([rig.spread / (2 * half_y * rig.height)] * 2, rel=0.1), (
            "squeezing has blurred it a little"
        )


@pytest.mark.parametrize(("size", "canvas"), SHAPES)
def test_the_main_network_sees_the_object_moved_by_the_disparity_of_its_depth(
    size: tuple[int, int], canvas: tuple[int, int]
) -> None:
    rig = Rig(*size)
    objects = places(rig)
    view, sides = looked_at(rig, objects, canvas), np.array([rig.width, rig.height])
    seen = 0
    for pair, (x, y, depth_m) in enumerate(objects):
        there = np.array([x - rig.disparity(depth_m), y])
        for crop, window in zip(numpy(view.small[pair]), numpy(view.crops[pair]), strict=True):
            centre, half = window[:2] * sides, window[2:] * sides
            red, green, blue = crop
            assert not red.any()
            assert not blue.any()
            if (np.abs(there - centre) + 3.5 * rig.spread < half).all():  # the whole object is in this crop
                found = centre + (centroid(green) - 0.5) * 2 * half
                assert found == pytest.approx(there, abs=0.01 * half[0])
                seen += 1
    assert seen > len(objects) * CROPS / 3


@pytest.mark.parametrize(("size", "canvas"), SHAPES)
def test_between_two_crops_of_one_window_lies_the_disparity_and_nothing_else(
    size: tuple[int, int], canvas: tuple[int, int]
) -> None:
    rig = Rig(*size)
    objects = places(rig)
    view = looked_at(rig, objects, canvas, student_scale=(1.0, 1.0))
    for pair, (_, _, depth_m) in enumerate(objects):
        left, right = centroid(numpy(view.large[:, 0][pair, 0])), centroid(numpy(view.small[pair, 0, 1]))
        width_px = 2 * float(view.window[pair, 2]) * rig.width
        assert (left[0] - right[0]) * width_px == pytest.approx(rig.disparity(depth_m), abs=0.003 * width_px)
        assert left[1] == pytest.approx(right[1], abs=1e-3)


class Told(Encoder):
    """Looks where it is told: maps [heads, h, w] that sum to 1."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__(ENCODER)
        self.maps = maps

    def attention(self, rgb: Tensor) -> Tensor:
        return self.maps.expand(len(rgb), *self.maps.shape)


def test_each_pair_is_looked_at_with_one_head_chosen_evenly() -> None:
    objective, maps = agent(), torch.zeros(2, 10, 10)
    maps[0, 2, 3] = maps[1, 6, 7] = 1
    looks_with(objective, Told(maps))
    black = torch.zeros(1000, 16, 16, 3, dtype=torch.uint8)
    view = viewed(objective, Batch(black, black, torch.ones(1000)), seeded())
    assert abs(float(view.head.float().mean()) - 0.5) < 4 * 0.5 / np.sqrt(1000)
    expected = torch.tensor([[0.35, 0.25], [0.75, 0.65]])[view.head]
    assert torch.allclose(view.gauss[:, :2], expected, atol=1e-5)
    assert torch.allclose(view.window[:, :2], expected, atol=1e-5)
