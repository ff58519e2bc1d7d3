"""Pictures of a run, as arrays: what the learner saw, where the teacher looked, what the reservoir holds.

The report and the live page draw from these; labels and files play no part here. Images are uint8 BGR.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.loop import Learner
from learner.memory import Draw
from learner.runs.reading import Album

WIDEST = 8.0
"""Aspect beyond which a picture stays squeezed: a device may send an image 8192 pixels wide and 1 high."""


def take_album(learner: Learner, *, received: int = 8, looks: int = 6, extremes: int = 8) -> Album:
    """Look at memory without disturbing training: the generator is a fresh one, the networks are only read.

    Keys: received_left/right, looks_left/right [n, H, W, 3]; attention [n, heads, h, w], head [n], gauss, window [n, 4],
    crops [n, N, 4] as in `Look`; teacher_view, student_views; high_left, low_left with high_priority, low_priority.
    """
    memory = learner.memory
    seen = memory.over_time(received)
    album: Album = {}
    if not len(seen):
        return album
    album["received_left"] = _unsqueezed(learner, memory.left, seen)
    album["received_right"] = _unsqueezed(learner, memory.right, seen)
    album |= looks_at(learner, memory.over_time(looks))
    high, low = memory.extremes(extremes)
    for name, slots in (("high", high), ("low", low)):
        album[f"{name}_left"] = _unsqueezed(learner, memory.left, slots)
        album[f"{name}_priority"] = memory.kl[slots].astype(np.float32)
    return album


def looks_at(learner: Learner, slots: NDArray[np.intp]) -> Album:
    """How the objective looks at the pairs in these slots: the album's keys from looks_left to student_views."""
    draw = Draw(np.zeros(len(slots), np.int64), slots, 0)
    generator = torch.Generator(learner.device).manual_seed(learner.config.seed)
    look = learner.objective.look(learner.memory.batch(draw, learner.device), generator)
    arrays = {name: getattr(look, name).float().cpu().numpy() for name in ("attention", "gauss", "window", "crops")}
    return arrays | {
        "looks_left": _unsqueezed(learner, learner.memory.left, slots),
        "looks_right": _unsqueezed(learner, learner.memory.right, slots),
        "head": look.head.cpu().numpy(),
        "teacher_view": _bgr(look.teacher_view),
        "student_views": _bgr(look.student_views),
    }


def _bgr(rgb: Tensor) -> NDArray[np.uint8]:
    """Float RGB [..., 3, S, S] in [0, 1] to uint8 BGR [..., S, S, 3]."""
    images = (rgb.clamp(0, 1) * 255).round().byte().flip(-3).movedim(-3, -1)
    array: NDArray[np.uint8] = images.cpu().numpy()
    return array


def _unsqueezed(learner: Learner, images: Tensor, slots: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Images of memory in the aspect of the scene (that of the first: an array has one shape)."""
    height, width = learner.config.memory.canvas
    if not len(slots):
        return np.empty((0, height, width, 3), np.uint8)
    aspect = min(float(learner.memory.aspect[int(slots[0])]), WIDEST)
    size = (max(1, round(height * aspect)), height)
    return np.stack([np.asarray(cv2.resize(images[int(slot)].numpy(), size), np.uint8) for slot in slots])
