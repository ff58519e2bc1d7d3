"""Streams with junk, in which the mishap of each pair is known, and held-out batches of the same mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.shared.pairs import Eyes, encoded, eyes_of, kept_pairs, two_eyes
from benchmarks.shared.spoiled import MISHAPS, Mishap, spoiled
from device.sim.camera import SimCamera, SimConfig
from learner.memory.canvas import on_canvas
from learner.objectives.contract import Batch
from learner.probes.control_sets import load_control
from stream.image import Image
from stream.pair import EncodedPair

PHOTOGRAPH_PX = 32
WALK_SIZE = (120, 160)


@dataclass(frozen=True)
class Scenes:
    """Real pairs of one size: those to train on, in their order, and similar pairs that are never trained on."""

    streamed: Sequence[Eyes]
    held_out: Sequence[Eyes]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        height, width = self.streamed[0][0].shape[:2]
        return height, width


@dataclass(frozen=True)
class LabelledPair:
    """A pair of a stream and its mishap; None for a real pair."""

    pair: EncodedPair
    mishap: Mishap | None


@dataclass(frozen=True)
class HeldOut:
    """Held-out batches, and the mishap of each of their pairs, "" for a real pair: [batches * size]."""

    batches: Sequence[Batch]
    mishaps: NDArray[np.str_]


def photographs(control: str, streamed: int, held_out: int, seed: int) -> Scenes:
    """Make pairs of the images of a control set; if there are too few, images are repeated.

    The right eye is made from the left one.
    """
    labelled = load_control(control, size=PHOTOGRAPH_PX)
    random = np.random.default_rng([seed, 0])

    def some(images: Image, count: int) -> list[Eyes]:
        order = np.resize(random.permutation(len(images)), count)
        return [two_eyes(images[index], random) for index in order]

    return Scenes(some(labelled.train_images, streamed), some(labelled.test_images, held_out))


def walk(textures: Path | None, streamed: int, held_out: int, seed: int) -> Scenes:
    """Return the simulated walk after dedupe and codec. The held-out pairs are from another walk through the same world."""
    config = SimConfig(size=WALK_SIZE, seed=seed, textures=textures)
    camera = SimCamera(config)
    other = SimCamera(config, world=camera.world, walk=config.walk + 1)

    def some(walker: SimCamera, count: int) -> list[Eyes]:
        return [eyes_of(pair) for pair in islice(kept_pairs(walker, seed=seed), count)]

    return Scenes(some(camera, streamed), some(other, held_out))


def with_junk(scenes: Sequence[Eyes], share: float, random: np.random.Generator) -> list[LabelledPair]:
    """Return the pairs in their order. A random `share` of them is spoiled, each by a mishap that is drawn uniformly."""
    pairs, before = [], scenes[0]
    for seq, eyes in enumerate(scenes):
        hit = seq > 0 and random.random() < share
        mishap = MISHAPS[random.integers(len(MISHAPS))] if hit else None
        seen = eyes if mishap is None else spoiled(eyes, mishap, random, before=before)
        pairs.append(LabelledPair(encoded(*seen, seq), mishap))
        before = eyes
    return pairs


def held_out_batches(scenes: Sequence[Eyes], *, size: int, share: float, random: np.random.Generator) -> HeldOut:
    """Return as many batches of `size` pairs as the scenes give, with the stream's share of junk.

    Each mishap has equally many pairs. A batch does not contain the real pair from which a spoiled one is made, except for frozen
    frames, which arrive with it.
    """
    each = max(1, round(size * share / len(MISHAPS)))
    real = size - each * len(MISHAPS)
    batches: list[Batch] = []
    mishaps: list[str] = []
    for first in range(0, len(scenes) - size + 1, size):
        whole, others = scenes[first : first + real], scenes[first + real : first + size]
        hit = [mishap for mishap in MISHAPS for _ in range(each)]
        junk = [
            spoiled(eyes, mishap, random, before=whole[index])
            for index, (eyes, mishap) in enumerate(zip(others, hit, strict=True))
        ]
        batches.append(_batch([*whole, *junk]))
        mishaps += [*[""] * real, *hit]
    return HeldOut(batches, np.array(mishaps))


def _batch(eyes: Sequence[Eyes]) -> Batch:
    height, width = eyes[0][0].shape[:2]
    left, right = (np.stack([on_canvas(pair[side], (height, width)) for pair in eyes]) for side in (0, 1))
    return Batch(torch.from_numpy(left), torch.from_numpy(right), torch.full((len(eyes),), width / height))
