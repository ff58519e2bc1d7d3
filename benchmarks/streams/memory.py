"""Memories that note which pairs they gave: that of a learner, and one that gives the batches of an order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.shared.paired import Floats, Keys
from learner.config import LearnerConfig
from learner.memory.decoding import decode_onto
from learner.memory.memory import Draw, Memory
from stream.pair import EncodedPair, StereoPair


class NotingMemory(Memory):
    """The memory of a learner. given: the keys of each draw, which are the arrival numbers of the pairs."""

    def __init__(self, config: LearnerConfig) -> None:
        super().__init__(config.memory, seed=config.seed)
        self.given: list[Keys] = []

    def draw(self, count: int) -> Draw:
        """Draw as Memory does."""
        draw = super().draw(count)
        self.given.append(draw.keys)
        return draw


class OrderedMemory(NotingMemory):
    """Holds all pairs from the beginning and gives them in an order, int64 [steps, batch] of their numbers."""

    def __init__(self, config: LearnerConfig, pairs: Sequence[EncodedPair], order: Keys) -> None:
        super().__init__(replace(config, memory=replace(config.memory, capacity=len(pairs))))
        for number, pair in enumerate(pairs):
            self.slots.put(number, decode_onto(config.memory.canvas, pair))
        self._order = iter(order)

    def add_clip(self, keys: Sequence[int], pairs: Sequence[StereoPair]) -> None:
        """Count pairs that arrive: they are held already."""
        self.arrived = max(self.arrived, keys[-1] + 1)

    def draw(self, count: int) -> Draw:
        """Give the next batch of the order."""
        keys = next(self._order)
        self.given.append(keys)
        return Draw(keys, self.slots.of(keys), 0)

    def score(self, draw: Draw, priority: Floats) -> None:
        """Keep all pairs, whatever their priority."""

    def refuse(self, draw: Draw, is_bad: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> None:
        """Keep all pairs: a simulated walk has no bad ones."""
