"""Probes encoders on the held-out pairs of the stream, and the start of the run on the same pairs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learner.errors import LearnerError
from learner.loop import Learner
from learner.memory.canvas import centre_square
from learner.memory.slots import SlotNumbers
from learner.networks.encoder import Encoder
from learner.probes.probe import FeatureFunction, extract
from learner.probes.stream_probe import Where, recalls, triplets
from learner.probes.visits import Visits
from learner.runs.reading import Line
from learner.weights.export import load_encoder
from stream.image import Image

log = logging.getLogger(__name__)

Features = tuple[Tensor, Tensor]
"""Of the left and of the right images, float32 [n, D] each."""


@dataclass(eq=False, kw_only=True)
class StreamProbe:
    """Asks how well encoders find the right image, the neighbour in time and another visit among the held-out pairs.

    What the start makes of a pair, and which pairs show the same place, is found out once for each pair.
    """

    learner: Learner
    start: Path
    """The file of the weights that the run started from. Without it the figures stand alone."""
    name: str = "the stream"
    _started: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _visits: Visits = field(default_factory=Visits)

    def measure(self, encoder: Encoder) -> Line:
        """Return a line with the recalls of an encoder and of the start; a recall is None while there are too few pairs."""
        keys, where = self._held()
        line: Line = {"pairs": len(keys), "stretches": len(np.unique(where.stretch))}
        slots = self.learner.held_out.slots.of(keys)
        same = self._visits.same_place(keys, where, lambda number: self._eyes(slots[number]))
        features = self._features(encoder, slots)
        found = recalls(*features, where, same)
        started = self._of_start(keys, slots) if any(one.recall is not None for one in found.values()) else None
        before = recalls(*started, where, same) if started else {}
        for kind, one in found.items():
            line |= {kind: one.recall, f"{kind}_chance": one.chance, f"{kind}_queries": one.queries}
            line[f"{kind}_start"] = before[kind].recall if before else None
        line |= _of_triplets("", features, where) | _of_triplets("_start", started, where)
        return line

    def _held(self) -> tuple[list[int], Where]:
        """Return the keys of the held-out pairs, and where they come from, in the order of their streams."""
        rows = [
            (key, number, seq)
            for number, (_, pairs) in enumerate(sorted(self.learner.held_out.kept.items()))
            for seq, key in sorted(pairs.items())
        ]
        keys, stretch, seq = zip(*rows, strict=True) if rows else ((), (), ())
        return list(keys), Where(np.array(stretch, np.int64), np.array(seq, np.int64))

    def _eyes(self, slot: int) -> tuple[Image, Image]:
        slots = self.learner.held_out.slots
        return slots.left[slot].numpy(), slots.right[slot].numpy()

    def _features(self, encoder: FeatureFunction, slots: SlotNumbers) -> Features:
        """Return the features of both eyes of these pairs, from the central square of the scene."""
        if not len(slots):
            return torch.zeros(0, 1), torch.zeros(0, 1)
        held, side = self.learner.held_out.slots, self.learner.config.crops.probe_size
        squares = (
            np.stack([centre_square(images[slot].numpy(), float(held.aspect[slot]), side) for slot in slots])
            for images in (held.left, held.right)
        )
        left, right = (extract(encoder, images, device=self.learner.device) for images in squares)
        return left, right

    def _of_start(self, keys: list[int], slots: SlotNumbers) -> Features | None:
        """Return what the start makes of these pairs; None if its weights cannot be read."""
        missing = [number for number, key in enumerate(keys) if key not in self._started]
        if missing:
            try:
                with torch.random.fork_rng(devices=[]):  # the networks of the run draw from the same generator
                    start = load_encoder(self.learner.config.encoder, self.start).to(self.learner.device)
            except LearnerError as error:
                log.warning("the stream's probe has no figures of the start: %s", error)
                return None
            found = zip(*self._features(start, slots[missing]), strict=True)
            self._started |= {keys[number]: eyes for number, eyes in zip(missing, found, strict=True)}
        self._started = {key: self._started[key] for key in keys}
        left, right = (torch.stack(some) for some in zip(*self._started.values(), strict=True))
        return left, right


def _of_triplets(suffix: str, features: Features | None, where: Where) -> Line:
    shares = triplets(features[0], where)._asdict() if features else {"right": None, "by_margin": None}
    return {f"triplets_{name}{suffix}": share for name, share in shares.items()}
