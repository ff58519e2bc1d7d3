"""Streams that move on and do not come back soon, with what is known about every pair: where it was taken, whether it is junk.

A stream is made once for a seed and a share of junk, then learned from under every policy. Its control sets are never trained
on: neither their test half nor the labelled bank.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.shared.spoiled import MISHAPS, Eyes, Mishap, spoiled
from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from device.sim.camera import SimCamera, SimConfig
from device.sim.control_set import write_control_set
from learner.probes.control_sets import ControlSet, load_control
from stream.codec import decode, encode_pair
from stream.image import Image
from stream.pair import EncodedPair

EPOCH = "0" * 32
IMAGE_SIZE = 32
"""Side in pixels of the class-ordered pictures."""
DISPARITY_PX = 2
BANK_PER_CLASS = 300
"""Labelled pictures that a probe of `classes` compares with."""
WALK_SIZE = (120, 160)
PLACE_SIZE = 64
"""Side in pixels a view of a place is probed at."""
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Materials:
    """Where streams and their control sets come from; None where a stream is not asked for."""

    control: str
    """A labelled set: half of its train half is streamed class by class, the other half is the bank of its probe."""
    textures: Path | None
    """Photographs for the simulated world."""
    drives: tuple[Path, ...]
    """Folders with left/ and right/."""


@dataclass(frozen=True)
class Stretch:
    """A stream of pairs. place: int64 [N], the class, room or drive of each pair; junk: bool [N]."""

    pairs: Sequence[EncodedPair]
    place: Places
    junk: NDArray[np.bool_]
    canvas: tuple[int, int]
    controls: tuple[ControlSet, ...]
    first_places: frozenset[int]
    """Labels of the first control set that the first third of the stream shows; none where they mean something else."""

    def shuffled(self, seed: int) -> Stretch:
        """The same pairs in another order."""
        order = np.random.default_rng([seed, 5]).permutation(len(self.pairs))
        pairs = [self.pairs[index] for index in order]
        return replace(self, pairs=_numbered(pairs), place=self.place[order], junk=self.junk[order])


@lru_cache(maxsize=1)
def stretch(name: str, materials: Materials, count: int, junk: float, seed: int) -> Stretch:
    """The stream of that name: about `count` real pairs, and so much junk between them that it is a `junk` share of all."""
    return _with_junk(_STREAMS[name](materials, count, seed), junk, np.random.default_rng([seed, 3]))


def _with_junk(clean: Stretch, share: float, random: np.random.Generator) -> Stretch:
    """Junk at random places; each is the mishap of the pair that follows, all mishaps equally often."""
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
    now, before = (_eyes(pairs[max(number, 0)]) for number in (index, index - 1))
    return _pair(*spoiled(now, mishap, random, before=before))


def _eyes(pair: EncodedPair) -> Eyes:
    decoded = decode(pair)
    return decoded.left, decoded.right


def _pair(left: Image, right: Image) -> EncodedPair:
    return encode_pair(left, right, device="bench", epoch=EPOCH, seq=0, left_ns=0, right_ns=0, codec="lz4")


def _numbered(pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
    return [replace(pair, header=msgspec.structs.replace(pair.header, seq=seq)) for seq, pair in enumerate(pairs)]


def _classes(materials: Materials, count: int, seed: int) -> Stretch:
    """Labelled pictures class after class, in an order of the seed's; the right eye sees them shifted and re-exposed."""
    control = _control(materials.control, IMAGE_SIZE)
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
    pairs = [_pair(*_two_eyes(control.train_images[index], random)) for index in order]
    return Stretch(pairs, place, np.zeros(len(pairs), np.bool_), (IMAGE_SIZE, IMAGE_SIZE), (held_out,), first)


def _two_eyes(image: Image, random: np.random.Generator) -> Eyes:
    gain, offset = random.uniform(0.9, 1.1), random.uniform(-8, 8)
    size = image.shape[1::-1]
    shift = np.array([[1, 0, -DISPARITY_PX], [0, 1, 0]], np.float32)
    right = cv2.warpAffine(image, shift, size, borderMode=cv2.BORDER_REFLECT_101).astype(np.float32)
    return image, np.asarray(np.clip(np.rint(right * gain + offset), 0, 255), np.uint8)


def _walk(materials: Materials, count: int, seed: int) -> Stretch:
    """The simulated walk through rooms, behind dedupe and codec; probed on its places in two other walks."""
    world = SimConfig(size=WALK_SIZE, seed=seed, textures=materials.textures)
    camera = SimCamera(world)
    pairs = list(islice(capture(camera, Dedupe(DedupeConfig(), seed=seed), device="sim", epoch=EPOCH), count))
    frames = [round((pair.header.left_ns - world.start_ns) * world.fps / 1e9) for pair in pairs]
    rooms = np.array([pose.place for pose in islice(camera.poses(), frames[-1] + 1)], np.int64)
    place = rooms[frames]
    controls = (_places(world), _control(materials.control, IMAGE_SIZE))
    # Folders are named place_00, place_01, ...: a label of the control set is the number of the room.
    first = frozenset(place[: len(place) // 3].tolist())
    return Stretch(pairs, place, np.zeros(len(pairs), np.bool_), WALK_SIZE, controls, first)


@cache
def _places(world: SimConfig) -> ControlSet:
    with tempfile.TemporaryDirectory() as folder:
        write_control_set(Path(folder) / "places", config=world, count=20_000, every=5, per_place=60)
        return load_control(f"places={folder}/places", size=PLACE_SIZE, limit_train=None, limit_test=None)


def _drives(materials: Materials, count: int, seed: int) -> Stretch:
    """Real stereo, drive after drive in an order of the seed's: windows that pan over each pair, as many as make `count`."""
    random = np.random.default_rng([seed, 1])
    files = [sorted((drive / "left").glob("*")) for drive in materials.drives]
    if not files or not all(files):
        raise ValueError("the stream `drives` needs --drives, folders that hold left/ and right/ with images")
    windows = max(1, round(count / sum(map(len, files))))
    pairs, place = [], []
    for number in random.permutation(len(files)).tolist():
        for path in files[number]:
            for eyes in _panned(path, windows, random):
                pairs.append(_pair(*eyes))
                place.append(number)
    controls = (_control(materials.control, IMAGE_SIZE),)
    return Stretch(pairs, np.array(place), np.zeros(len(pairs), np.bool_), WALK_SIZE, controls, frozenset())


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


@cache
def _control(spec: str, size: int) -> ControlSet:
    return load_control(spec, size=size, limit_train=None, limit_test=None)


_STREAMS = {"classes": _classes, "walk": _walk, "drives": _drives}
STREAMS = tuple(_STREAMS)
