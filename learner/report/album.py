"""Pictures of a run as arrays: received pairs, views of the objective, and pairs of the reservoir.

The report and the live page draw them. Images are uint8 BGR.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.loop import Learner
from learner.memory import pictures
from learner.memory.memory import Draw
from learner.objectives.contract import Batch, Objective
from learner.probes.probe import evaluating
from learner.report.pictures import WIDEST
from learner.runs.reading import Album


def make_album(learner: Learner, *, received: int = 8, viewed: int = 6, extremes: int = 8) -> Album:
    """Return pictures of so many pairs in memory. Training is not changed: the generator is a new one.

    Keys: received_left and received_right [received, H, W, 3]; those of `views_of`; high_left, low_left [extremes, H, W, 3],
    the pairs of the highest and lowest priority, with high_priority, low_priority [extremes]. Empty without a pair.
    """
    memory = learner.memory
    seen = pictures.over_time(memory, received)
    album: Album = {}
    if not len(seen):
        return album
    album["received_left"] = _unsqueezed(learner, memory.slots.left, seen)
    album["received_right"] = _unsqueezed(learner, memory.slots.right, seen)
    album |= views_of(learner, pictures.clips_over_time(memory, viewed))
    high, low = pictures.extremes(memory, extremes)
    for name, slots in (("high", high), ("low", low)):
        album[f"{name}_left"] = _unsqueezed(learner, memory.slots.left, slots)
        album[f"{name}_priority"] = memory.slots.priority[slots].astype(np.float32)
    return album


def views_of(learner: Learner, slots: NDArray[np.intp]) -> Album:
    """Return how the objective views the pairs in these slots.

    Keys: viewed_left, viewed_right [n, H, W, 3], and those of `Objective.pictures`, images as uint8 [..., S, S, 3].
    """
    draw = Draw(np.zeros(len(slots), np.int64), slots, 0, learner.memory.slots.clips[slots])
    generator = torch.Generator(learner.device).manual_seed(learner.config.seed)
    return pictures_of(learner.objective, learner.memory.batch(draw, learner.device), generator) | {
        "viewed_left": _unsqueezed(learner, learner.memory.slots.left, slots),
        "viewed_right": _unsqueezed(learner, learner.memory.slots.right, slots),
    }


def pictures_of(objective: Objective[Any], batch: Batch, generator: torch.Generator) -> Album:
    """Return the pictures that an objective brings, as arrays. Nothing in it changes, and one of several processes may ask."""
    with evaluating(objective):
        return {name: _array(values) for name, values in objective.pictures(batch, generator).items()}


def _array(values: Tensor) -> NDArray[Any]:
    """Convert images [..., 3, S, S] for an album, and other numbers as they are."""
    is_image = values.ndim > 3 and values.shape[-3] == 3 and values.is_floating_point()
    return _bgr(values) if is_image else (values.float() if values.is_floating_point() else values).cpu().numpy()


def _bgr(rgb: Tensor) -> NDArray[np.uint8]:
    """Convert float RGB [..., 3, S, S] in [0, 1] to uint8 BGR [..., S, S, 3]."""
    images = (rgb.clamp(0, 1) * 255).round().byte().flip(-3).movedim(-3, -1)
    array: NDArray[np.uint8] = images.cpu().numpy()
    return array


def _unsqueezed(learner: Learner, images: Tensor, slots: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Return images of memory in the aspect of the scene, which is that of the first one: an array has one shape."""
    height, width = learner.config.memory.canvas
    if not len(slots):
        return np.empty((0, height, width, 3), np.uint8)
    aspect = min(float(learner.memory.slots.aspect[int(slots[0])]), WIDEST)
    size = (max(1, round(height * aspect)), height)
    return np.stack([np.asarray(cv2.resize(images[int(slot)].numpy(), size), np.uint8) for slot in slots])
