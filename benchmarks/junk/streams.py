"""Streams with junk in them, where each pair's mishap is known; and held-out batches of the same mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.shared.spoiled import MISHAPS, Eyes, Mishap, spoiled
from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from device.sim.camera import SimCamera, SimConfig
from learner.memory.canvas import on_canvas
from learner.objectives.contract import Batch
from learner.probes.control_sets import load_control
from stream.codec import decode, encode_pair
from stream.image import Image
from stream.pair import EncodedPair

EPOCH = "0" * 32
PHOTOGRAPH_PX = 32
DISPARITY_PX = 2
WALK_SIZE = (120, 160)


@dataclass(frozen=True)
class Scenes:
    """Real pairs of one size: those to train on, in their order, and as good ones that are never trained on."""

    streamed: Sequence[Eyes]
    held_out: Sequence[Eyes]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        height, width = self.streamed[0][0].shape[:2]
        return height, width


@dataclass(frozen=True)
class Shown:
    """A pair of a stream and what happened to it; None: nothing."""

    pair: EncodedPair
    mishap: Mishap | None


@dataclass(frozen=True)
class Exam:
    """Held-out batches, and the mishap of each of their pairs, "" for a real one: [batches * size]."""

    batches: Sequence[Batch]
    mishaps: NDArray[np.str_]


def photographs(control: str, streamed: int, held_out: int, seed: int) -> Scenes:
    """Photographs of a control set, each once (again only where there are too few); the right eye is shifted and re-exposed."""
    labelled = load_control(control, size=PHOTOGRAPH_PX)
    random = np.random.default_rng([seed, 0])

    def some(images: Image, count: int) -> list[Eyes]:
        order = np.resize(random.permutation(len(images)), count)
        return [_two_eyes(images[index], random) for index in order]

    return Scenes(some(labelled.train_images, streamed), some(labelled.test_images, held_out))


def walk(textures: Path | None, streamed: int, held_out: int, seed: int) -> Scenes:
    """The simulated walk behind dedupe and codec; held out is another walk through the same world."""
    config = SimConfig(size=WALK_SIZE, seed=seed, textures=textures)
    camera = SimCamera(config)
    other = SimCamera(config, world=camera.world, walk=config.walk + 1)

    def some(walker: SimCamera, count: int) -> list[Eyes]:
        pairs = capture(walker, Dedupe(DedupeConfig(), seed=seed), device="sim", epoch=EPOCH)
        decoded = map(decode, islice(pairs, count))
        return [(pair.left, pair.right) for pair in decoded]

    return Scenes(some(camera, streamed), some(other, held_out))


def with_junk(scenes: Sequence[Eyes], share: float, random: np.random.Generator) -> list[Shown]:
    """The pairs in their order, a random `share` of them spoiled, each by a mishap drawn evenly."""
    shown, before = [], scenes[0]
    for seq, eyes in enumerate(scenes):
        struck = seq > 0 and random.random() < share
        mishap = MISHAPS[random.integers(len(MISHAPS))] if struck else None
        seen = eyes if mishap is None else spoiled(eyes, mishap, random, before=before)
        shown.append(Shown(_encoded(seen, seq), mishap))
        before = eyes
    return shown


def exam(scenes: Sequence[Eyes], *, size: int, share: float, random: np.random.Generator) -> Exam:
    """As many batches of `size` pairs as the scenes give, with the stream's share of junk, as many of each mishap.

    What is spoiled is a pair that is not in the batch itself, but for the frozen one: there both are, as they arrive together.
    """
    each = max(1, round(size * share / len(MISHAPS)))
    real = size - each * len(MISHAPS)
    batches: list[Batch] = []
    mishaps: list[str] = []
    for first in range(0, len(scenes) - size + 1, size):
        whole, others = scenes[first : first + real], scenes[first + real : first + size]
        struck = [mishap for mishap in MISHAPS for _ in range(each)]
        junk = [
            spoiled(eyes, mishap, random, before=whole[index])
            for index, (eyes, mishap) in enumerate(zip(others, struck, strict=True))
        ]
        batches.append(_batch([*whole, *junk]))
        mishaps += [*[""] * real, *struck]
    return Exam(batches, np.array(mishaps))


def _batch(eyes: Sequence[Eyes]) -> Batch:
    left, right = (_stacked([pair[side] for pair in eyes]) for side in (0, 1))
    return Batch(left, right, torch.full((len(eyes),), left.shape[2] / left.shape[1]))


def _stacked(images: Sequence[Image]) -> Tensor:
    height, width = images[0].shape[:2]
    return torch.from_numpy(np.stack([on_canvas(image, (height, width)) for image in images]))


def _two_eyes(image: Image, random: np.random.Generator) -> Eyes:
    gain, offset = random.uniform(0.9, 1.1), random.uniform(-8, 8)
    shift = np.array([[1, 0, -DISPARITY_PX], [0, 1, 0]], np.float32)
    right = cv2.warpAffine(image, shift, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101).astype(np.float32)
    return image, np.asarray(np.clip(np.rint(right * gain + offset), 0, 255), np.uint8)


def _encoded(eyes: Eyes, seq: int) -> EncodedPair:
    return encode_pair(*eyes, device="bench", epoch=EPOCH, seq=seq, left_ns=seq, right_ns=seq, codec="lz4")
