"""Streams that move on and do not return soon, with labels for every pair: its place, and whether it is junk.

A stream is made once for a seed and a share of junk, then used with every policy. Neither half of its control sets is ever
trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.shared.pairs import Eyes, encoded, eyes_of, kept_pairs, renumbered, two_eyes
from benchmarks.shared.probing import control_set, places_of
from benchmarks.shared.spoiled import MISHAPS, Mishap, spoiled
from device.sim.camera import SimCamera, SimConfig
from learner.probes.control_sets import ControlSet
from stream.pair import EncodedPair

IMAGE_SIZE = 32
"""Side in pixels of the images in the stream `classes`."""
BANK_PER_CLASS = 300
"""Labelled images of each class in the bank of the probe for `classes`."""
WALK_SIZE = (120, 160)
PLACE_SIZE = 64
"""Side in pixels at which a view of a place is probed."""


@dataclass(frozen=True)
class Materials:
    """The sources of streams and their control sets."""

    control: str
    """A labelled set: half of its train half is streamed class by class, the other half is the bank of its probe."""
    textures: Path | None
    """Photographs for the simulated world."""
    drives: tuple[Path, ...]
    """Folders with left/ and right/."""


@dataclass(frozen=True)
class LabelledStream:
    """A stream of pairs. place: int64 [N], the class, room or drive of each pair; junk: bool [N]."""

    pairs: Sequence[EncodedPair]
    place: NDArray[np.int64]
    junk: NDArray[np.bool_]
    canvas: tuple[int, int]
    controls: tuple[ControlSet, ...]
    first_places: frozenset[int]
    """Labels in the first control set of the places in the first third of the stream; empty if its labels are of another kind."""

    def shuffled(self, seed: int) -> LabelledStream:
        """Return the same pairs in another order."""
        order = np.random.default_rng([seed, 5]).permutation(len(self.pairs))
        pairs = [self.pairs[index] for index in order]
        return replace(self, pairs=_numbered(pairs), place=self.place[order], junk=self.junk[order])


@lru_cache(maxsize=1)
def labelled_stream(name: str, materials: Materials, count: int, junk: float, seed: int) -> LabelledStream:
    """Return the stream with this name: about `count` real pairs, and junk that makes up a share `junk` of all pairs."""
    return _with_junk(_STREAMS[name](materials, count, seed), junk, np.random.default_rng([seed, 3]))


def _with_junk(clean: LabelledStream, share: float, random: np.random.Generator) -> LabelledStream:
    """Insert junk at random positions.

    Each junk pair is a spoiled copy of the pair that follows; all mishaps are equally frequent.
    """
    total = len(clean.pairs) + round(len(clean.pairs) * share / (1 - share))
    junk = np.zeros(total, np.bool_)
    junk[random.choice(total - 1, total - len(clean.pairs), replace=False)] = True
    source = np.minimum(np.cumsum(~junk) - ~junk, len(clean.pairs) - 1)
    pairs = []
    for index, real in enumerate(source.tolist()):
        mishap = MISHAPS[index % len(MISHAPS)]
        pairs.append(_spoiled(clean.pairs, real, mishap, random) if junk[index] else clean.pairs[real])
    return replace(clean, pairs=_numbered(pairs), place=np.where(junk, -1, clean.place[source]), junk=junk)


def _spoiled(pairs: Sequence[EncodedPair], index: int, mishap: Mishap, random: np.random.Generator) -> EncodedPair:
    now, before = (eyes_of(pairs[max(number, 0)]) for number in (index, index - 1))
    return encoded(*spoiled(now, mishap, random, before=before))


def _numbered(pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
    return [renumbered(pair, seq) for seq, pair in enumerate(pairs)]


def _classes(materials: Materials, count: int, seed: int) -> LabelledStream:
    """Return labelled images, class after class, in a random order of classes. The right eye is made from the left one."""
    control = control_set(materials.control, IMAGE_SIZE)
    random = np.random.default_rng([seed, 1])
    chosen, bank = [], []
    for label in random.permutation(len(control.classes)):
        of_class = random.permutation(np.flatnonzero(control.train_labels == label))
        here = min(count // len(control.classes), len(of_class) // 2)
        chosen.append(of_class[:here])
        bank.append(of_class[len(of_class) // 2 :][:BANK_PER_CLASS])
    order, rest = np.concatenate(chosen), np.concatenate(bank)
    place = control.train_labels[order].astype(np.int64)
    first = frozenset(place[: len(place) // 3].tolist())
    held_out = replace(control, train_images=control.train_images[rest], train_labels=control.train_labels[rest])
    pairs = [encoded(*two_eyes(control.train_images[index], random)) for index in order]
    return LabelledStream(pairs, place, np.zeros(len(pairs), np.bool_), (IMAGE_SIZE, IMAGE_SIZE), (held_out,), first)


def _walk(materials: Materials, count: int, seed: int) -> LabelledStream:
    """Return the simulated walk through rooms, after dedupe and codec. Its places are probed as seen on two other walks."""
    world = SimConfig(size=WALK_SIZE, seed=seed, textures=materials.textures)
    camera = SimCamera(world)
    pairs = list(islice(kept_pairs(camera, seed=seed), count))
    frames = [round((pair.header.left_ns - world.start_ns) * world.fps / 1e9) for pair in pairs]
    rooms = np.array([pose.place for pose in islice(camera.poses(), frames[-1] + 1)], np.int64)
    place = rooms[frames]
    controls = (
        places_of(world, size=PLACE_SIZE, per_place=60, count=20_000, every=5),
        control_set(materials.control, IMAGE_SIZE),
    )
    # Folders are named place_00, place_01, ...: a label of the control set is the number of the room.
    first = frozenset(place[: len(place) // 3].tolist())
    return LabelledStream(pairs, place, np.zeros(len(pairs), np.bool_), WALK_SIZE, controls, first)


def _drives(materials: Materials, count: int, seed: int) -> LabelledStream:
    """Return real stereo pairs, drive after drive in a random order: windows that move over each pair, enough for `count`."""
    random = np.random.default_rng([seed, 1])
    files = [sorted((drive / "left").glob("*")) for drive in materials.drives]
    if not files or not all(files):
        raise ValueError("the stream `drives` needs --drives, folders that hold left/ and right/ with images")
    windows = max(1, round(count / sum(map(len, files))))
    pairs, place = [], []
    for number in random.permutation(len(files)).tolist():
        for path in files[number]:
            for eyes in _panned(path, windows, random):
                pairs.append(encoded(*eyes))
                place.append(number)
    controls = (control_set(materials.control, IMAGE_SIZE),)
    return LabelledStream(pairs, np.array(place), np.zeros(len(pairs), np.bool_), WALK_SIZE, controls, frozenset())


def _panned(path: Path, count: int, random: np.random.Generator) -> Iterator[Eyes]:
    left, right = (cv2.imread(str(file)) for file in (path, path.parent.parent / "right" / path.name))
    if left is None or right is None or left.shape != right.shape:
        raise ValueError(f"--drives: {path} and its right eye cannot be read as one pair")
    height = left.shape[0]
    width = min(round(height * WALK_SIZE[1] / WALK_SIZE[0]), left.shape[1])
    for start in np.sort(random.integers(0, left.shape[1] - width + 1, count)):
        window = slice(int(start), int(start) + width)
        small = [cv2.resize(eye[:, window], WALK_SIZE[::-1], interpolation=cv2.INTER_AREA) for eye in (left, right)]
        yield np.asarray(small[0], np.uint8), np.asarray(small[1], np.uint8)


_STREAMS = {"classes": _classes, "walk": _walk, "drives": _drives}
STREAMS = tuple(_STREAMS)
