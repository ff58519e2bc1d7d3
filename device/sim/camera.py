"""`sim`: a simulated camera that walks through the simulated world. The settings decide every bit of the images.

`seed` decides the world, and `walk` decides the path and the light. Two walks in one world show the same places in different
ways, so one of them can be held out as a control set. A frame depends on its pose and its index only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from device.camera import EyeImage, Shot, SimLabels
from device.sim.experience import Experience
from device.sim.furnish import build_world
from device.sim.render import Ids, Pose, Renderer
from device.sim.textures import Photographs
from device.sim.trajectory import generate_poses
from device.sim.world import NOTHING, World
from stream.image import MAX_SIDE, Image

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SimConfig:
    """Settings of the simulated camera. Raises ValueError in one line for a value out of range."""

    size: tuple[int, int] = (240, 320)
    """Height and width of an image, pixels; each at least 16."""
    seed: int = 0
    """Decides the world: its rooms and their pictures and things."""
    walk: int = 0
    """Decides the path and the light."""
    textures: Path | None = None
    """A folder of photographs that hang in the rooms; None: procedural pictures."""
    places: int = 16
    """Number of rooms, 1 to 256."""
    fps: float = 10.0
    """Shots per second of simulated time."""
    start_ns: int = 1_700_000_000_000_000_000
    """Capture time of the first shot, nanoseconds since 1970."""
    noise: float = 1.5
    """Standard deviation of the sensor's noise, grey levels of 0..255."""
    baseline_m: float = 0.06
    """Distance of the right eye from the left one."""
    view_deg: float = 70.0
    """Horizontal field of view."""
    reward: bool = False
    """Whether each shot has a reward: 1 in a room that was not visited before, else 0."""

    def __post_init__(self) -> None:
        limits: tuple[tuple[str, float, float, float], ...] = (
            ("size: height", self.size[0], 16, MAX_SIDE),
            ("size: width", self.size[1], 16, MAX_SIDE),
            ("seed", self.seed, 0, 2**63),
            ("walk", self.walk, 0, 2**63),
            ("places", self.places, 1, 256),
            ("fps", self.fps, 0.1, 1000),
            ("start_ns", self.start_ns, 0, 2**62),
            ("noise", self.noise, 0, 30),
            ("baseline_m", self.baseline_m, 0, 0.3),
            ("view_deg", self.view_deg, 20, 120),
        )
        for name, value, low, high in limits:
            if not low <= value <= high:
                raise ValueError(f"sim camera: {name} must be {low:g} to {high:g}, got {value}")

    @property
    def focal_px(self) -> float:
        """Focal length in pixels: a plane at depth Z has a disparity of focal_px * baseline_m / Z."""
        return self.size[1] / 2 / float(np.tan(np.radians(self.view_deg) / 2))


VISIBLE_FRACTION = 0.005
"""A thing counts as visible if it covers at least this part of the left image."""


class _Light:
    """Slow changes of brightness and colour, as a function of time, so that no error accumulates."""

    def __init__(self, walk: int) -> None:
        generator = np.random.default_rng([walk, 11])
        level = generator.uniform((-0.35, -0.16, -0.02), (0.08, 0.16, 0.02))
        depth = generator.uniform((0.04, 0.02), (0.1, 0.05))
        rate = 2 * np.pi / generator.uniform(80.0, 240.0, 2)
        phase = generator.uniform(0, 2 * np.pi, 2)
        self._waves = np.array([*level, *depth, *rate, *phase])

    def gains(self, seconds: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the factors for B, G and R of the left and of the right eye, float64 [3] each, at a time in seconds."""
        bright, warm, right, depth_b, depth_w, rate_b, rate_w, phase_b, phase_w = self._waves
        brightness = bright + depth_b * np.sin(rate_b * seconds + phase_b)
        warmth = warm + depth_w * np.sin(rate_w * seconds + phase_w)
        left = np.exp(brightness + warmth * np.array([-1.0, 0.0, 1.0]))
        return left, left * np.exp(right)


class _Sensor:
    """Adds light and noise to a clean view.

    The noise of an image is a window into one large field, at a random offset: windows at different offsets are uncorrelated.
    Drawing half a million normal numbers for each pair would take longer than painting it.
    """

    def __init__(self, config: SimConfig) -> None:
        height, width = config.size
        self._config = config
        self._light = _Light(config.walk)
        generator = np.random.default_rng([config.seed, config.walk, 13])
        self._field = np.empty((height + 257, width + 257, 3), np.int16)
        for row in self._field:  # row by row: for the whole field at once, three times the memory would stay allocated
            row[:] = np.rint(config.noise * generator.standard_normal(row.shape, np.float32))

    def expose(self, left: Image, right: Image, index: int) -> tuple[Image, Image]:
        """Expose the views of both eyes as frame `index`."""
        gains = self._light.gains(index / self._config.fps)
        offsets = np.random.default_rng([self._config.seed, self._config.walk, index]).integers(0, 257, (2, 2))
        images = (self._expose(*each) for each in zip((left, right), gains, offsets, strict=True))
        return next(images), next(images)

    def _expose(self, image: Image, gain: NDArray[np.float64], offset: NDArray[np.int64]) -> Image:
        height, width = self._config.size
        curve = np.clip(np.arange(256)[:, None] * gain, 0, 255).astype(np.uint8).reshape(1, 256, 3)
        noise = self._field[offset[0] : offset[0] + height, offset[1] : offset[1] + width]
        return np.asarray(cv2.add(cv2.LUT(image, curve), noise, dtype=cv2.CV_8U), np.uint8)


class SimCamera:
    """A walk as a `Camera`: it is endless, and each frame is made when it is requested. Iterating again begins the walk again.

    settings: fields of SimConfig that replace those of `config`.
    Raises CameraError if `textures` holds no photograph, ValueError for a setting out of range.
    """

    def __init__(self, config: SimConfig | None = None, *, world: World | None = None, **settings: Any) -> None:
        self.config = replace(config or SimConfig(), **settings)
        self.fps: float | None = self.config.fps
        self.world = load_world(self.config) if world is None else world
        self._renderer = Renderer(self.world, self.config.size, self.config.focal_px)
        self._sensor = _Sensor(self.config)

    def poses(self) -> Iterator[Pose]:
        """Yield the pose of the left eye for each frame. This is fast, because nothing is painted."""
        return generate_poses(self.world, self.config.walk, self.config.fps)

    def __iter__(self) -> Iterator[Shot]:
        """Yield all shots from the first on, with what the wearer did since the one before."""
        seen = Experience(self.config.fps, reward=self.config.reward)
        for index, pose in enumerate(self.poses()):
            shot = self.shot(index, pose)
            yield replace(shot, telemetry=seen.telemetry(pose, shot.left.captured_ns))

    def shot(self, index: int, pose: Pose) -> Shot:
        """Take frame `index` from a pose."""
        left, ids = self._renderer.labelled_view(pose)
        right = self._renderer.view(pose, self.config.baseline_m)
        left, right = self._sensor.expose(left, right, index)
        captured_ns = self.config.start_ns + int(index * 10**9 / Fraction(self.config.fps))
        return Shot(EyeImage(captured_ns, left), EyeImage(captured_ns, right), SimLabels(pose.place, _things_in(ids)))

    def left_view(self, index: int, pose: Pose) -> Image:
        """Return the left image that `shot` gives, in a third of its time: the right one and the labels are not painted."""
        left = self._renderer.view(pose)
        return self._sensor.expose(left, left, index)[0]

    def close(self) -> None:
        """Do nothing: no file is held open."""


def load_world(config: SimConfig) -> World:
    """Build the world of the settings, which several walks can share. Raises CameraError if there is no photograph."""
    if config.textures is None:
        return build_world(config.places, config.seed)
    photographs = Photographs(config.textures, np.random.default_rng([config.seed, 3]))
    world = build_world(config.places, config.seed, photographs)
    if photographs.unreadable:
        log.warning("textures: skipped unreadable files=%d folder=%s", photographs.unreadable, config.textures)
    return world


def _things_in(ids: Ids) -> tuple[int, ...]:
    counts = np.zeros(int(ids.max()) - NOTHING + 1, np.int64)
    for strip in np.array_split(ids.ravel(), 16):  # in pieces: bincount works on a copy of twice the size
        counts += np.bincount(strip - NOTHING, minlength=len(counts))
    return tuple(
        int(thing) for thing in np.flatnonzero(counts >= VISIBLE_FRACTION * ids.size) + NOTHING if thing != NOTHING
    )
