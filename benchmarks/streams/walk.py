"""A recorded walk for the bench: all its frames, which of them the rig keeps, and what each frame looks like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import cv2
import numpy as np

from benchmarks.shared.paired import Floats, Keys
from benchmarks.shared.pairs import encoded, kept_pairs
from device.camera import Shot
from device.sim.camera import SimCamera, SimConfig
from stream.pair import EncodedPair

LOOK_PX = 12
"""Side of the grey picture by which frames are compared."""


@dataclass(frozen=True)
class Walk:
    """All frames [F], the numbers of those that the rig keeps, int64 [N] and rising, and a unit row for each, [F, D]."""

    frames: list[EncodedPair]
    kept: Keys
    looks: Floats


@lru_cache(maxsize=1)
def recorded(world: SimConfig, kept: int) -> Walk:
    """Record a walk until the rig has kept so many pairs. It stands still for about 30 % of the time."""
    frames: list[EncodedPair] = []
    looks: list[Floats] = []

    def passing() -> Iterator[Shot]:
        for shot in SimCamera(world):
            left, right = shot.left.pixels, shot.right.pixels
            assert left is not None  # the simulator gives pixels
            assert right is not None
            frames.append(encoded(left, right, len(frames), shot.left.captured_ns, codec="jpeg"))
            small = cv2.resize(cv2.cvtColor(left, cv2.COLOR_BGR2GRAY), (LOOK_PX, LOOK_PX), interpolation=cv2.INTER_AREA)
            looks.append(small.astype(np.float64).ravel())
            yield shot

    times = [pair.header.left_ns for pair in islice(kept_pairs(passing(), seed=world.seed), kept)]
    numbers = np.searchsorted([pair.header.left_ns for pair in frames], times)
    rows = np.stack(looks)
    rows -= rows.mean(1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9)
    return Walk(frames, numbers.astype(np.int64), rows)
