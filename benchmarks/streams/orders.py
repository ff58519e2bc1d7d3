"""Which frames of a recording are in which batch: orders that differ in how alike the frames within and between batches are.

Pure. F frames, S steps, B frames in a batch; an order is int64 [S, B] of frame numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from benchmarks.shared.paired import Floats, Keys

Order = Callable[[int, int, int, int], Keys]
"""Maps F, S, B and a seed to an order. F is at least B."""


def window(frames: int, steps: int, batch: int, _seed: int) -> Keys:
    """Let a window slide over the frames from the first to the last: alike within a batch, and from one to the next."""
    starts = np.linspace(0, frames - batch, steps).round().astype(np.int64)
    return starts[:, None] + np.arange(batch)


def blocks(frames: int, steps: int, batch: int, seed: int) -> Keys:
    """Take the same windows in a random order: alike within a batch only."""
    return np.random.default_rng([seed, 17]).permutation(window(frames, steps, batch, seed))


def comb(frames: int, steps: int, batch: int, _seed: int) -> Keys:
    """Spread a batch evenly over the recording, and move all of it a little in each step: alike between batches only."""
    teeth = frames / batch
    places = np.arange(batch) * teeth + np.linspace(0, teeth, steps, endpoint=False)[:, None]
    return np.minimum(places.astype(np.int64), frames - 1)


def shuffled(frames: int, steps: int, batch: int, seed: int) -> Keys:
    """Deal the frames in a random order, and all of them again in another one: as alike as any frames are."""
    random = np.random.default_rng([seed, 19])
    epochs = -(-steps * batch // frames)
    dealt = np.concatenate([random.permutation(frames) for _ in range(epochs)])
    return dealt[: steps * batch].reshape(steps, batch).astype(np.int64)


class Likeness(NamedTuple):
    """How alike frames are: mean cosines of what they look like; the last two are nan for a single batch."""

    within: float
    """Of two frames of a batch."""
    between: float
    """Of a frame of a batch and one of the next batch."""
    nearest: float
    """Of a frame and that one of the next batch that is most like it: a comb's teeth find themselves again."""


def likeness(looks: Floats, order: Keys) -> Likeness:
    """Return how alike the frames of an order are. looks: unit rows [F, D], what each frame looks like."""
    count = order.shape[1]
    sums = np.stack([looks[numbers].sum(0) for numbers in order])
    within = ((sums**2).sum(1) - count) / max(1, count * (count - 1))
    pairs = [looks[these] @ looks[those].T for these, those in pairwise(order)] or [np.full((1, 1), np.nan)]
    between, nearest = (float(np.mean(found)) for found in (pairs, [cosines.max(1) for cosines in pairs]))
    return Likeness(float(within.mean()), between, nearest)
