"""Which pairs of memory to show: the slots of extremes, of the newest and oldest, and of pairs spread over time.

Of a kept clip the extremes and the ends show the first pair.
"""

from __future__ import annotations

import cv2
import numpy as np

from buffer.index import Keys
from learner.memory.memory import Memory
from learner.memory.slots import SlotNumbers

GRID = 16
SAME = 4.0
"""Grey levels; noise of a camera that stands still is less in the mean of a tile."""


def extremes(memory: Memory, count: int) -> tuple[SlotNumbers, SlotNumbers]:
    """Return the slots, intp [<= count], of the kept pairs with the highest and with the lowest priority, most extreme first."""
    slots = memory.slots.of(memory.ranking.reservoir.keys())
    ranked = slots[np.argsort(memory.slots.priority[slots])]
    return ranked[::-1][:count], ranked[:count]


def ends(memory: Memory, count: int) -> tuple[SlotNumbers, SlotNumbers]:
    """Return the slots, intp [<= count], of the newest kept pairs, newest first, and of the oldest ones, oldest first."""
    keys = np.sort(memory.ranking.reservoir.keys())
    return memory.slots.of(keys[::-1][:count]), memory.slots.of(keys[:count])


def over_time(memory: Memory, count: int) -> SlotNumbers:
    """Return the slots of at most `count` pairs, spread evenly over all arrivals in memory, newest first: intp [n]."""
    return memory.slots.of(_spread(memory.slots.keys(), count))


def clips_over_time(memory: Memory, count: int) -> SlotNumbers:
    """Return the slots of at most `count` pairs, in clips that are spread evenly over all arrivals, newest first: intp [n].

    The pairs of a clip are in their order; of single pairs these are the slots of `over_time`.
    """
    clips = np.unique(memory.slots.clips[memory.slots.of(memory.slots.keys())])
    chosen = _spread(clips, max(1, count // memory.config.clip))
    return memory.slots.of([key for clip in chosen.tolist() for key in memory.slots.keys_of(clip)][:count])


def _spread(keys: Keys, count: int) -> Keys:
    """Return at most `count` of rising keys, evenly spread, the last one first."""
    places = np.arange(count) * len(keys) // count if len(keys) > count else np.arange(len(keys))
    return keys[::-1][places]


def different(memory: Memory, count: int) -> tuple[int, int]:
    """Look at the left images of at most `count` pairs in memory, spread evenly over time: return how many, and how many differ.

    Two show the same if no tile of a grid of 16 x 16 differs by more than SAME grey levels.
    """
    images = memory.slots.left[over_time(memory, count)].numpy()
    tiles = [cv2.resize(image, (GRID, GRID), interpolation=cv2.INTER_AREA).mean(-1).ravel() for image in images]
    found = np.empty((0, GRID * GRID))
    for tile in tiles:
        if not (np.abs(found - tile).max(1) <= SAME).any():
            found = np.vstack([found, tile])
    return len(tiles), len(found)
