"""The images of the bench, a folder of JPEG files: rendered from the simulated walk on all cores, or given.

    walk/left/000000.jpg  walk/right/000000.jpg      the pairs to train on
    places/train|test/place_XX/*.jpg                 rooms on two other walks of the same world, a control set

In a folder without `walk/`, each JPEG file is both eyes of a pair.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.parts import Task
from device.sim.camera import SimCamera, SimConfig
from device.sim.control_set import write_control_set
from learner.memory.canvas import on_canvas
from stream.image import Image

CORES = len(os.sched_getaffinity(0))
QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 90)
EVERY = 2
"""Each n-th frame of the walk becomes a pair."""
PACK_SECONDS = 120.0
Pairs = Sequence[tuple[bytes, bytes]]
"""The JPEG files of both eyes."""


@dataclass(frozen=True)
class Walk:
    """How much is rendered: at most `pairs` pairs and, for each half of the control set, `per_place` images of each room."""

    config: SimConfig
    pairs: int
    per_place: int


FULL = Walk(SimConfig(), 6000, 24)
REHEARSAL = Walk(SimConfig(size=(120, 160), places=4), 48, 6)
PACK = Walk(SimConfig(), 520, 20)
"""The walk of a packed file, which is smaller than 40 MB."""


def run(task: Task) -> None:
    """Render the images that are missing, for at most two thirds of the time."""
    folder = Path(task.pictures)
    if not folder.exists():
        until_s = time.monotonic() + 2 / 3 * task.left_s()
        task.attempt("render", lambda: render(FULL if task.is_full else REHEARSAL, folder, until_s))
    task.report("pictures", {"pairs": len(pairs_of(folder)), "has_places": has_places(folder)})


def render(walk: Walk, folder: Path, until_s: float) -> dict[str, float]:
    """Render on all cores until `until_s` (time.monotonic). All pairs that exist afterwards are complete."""
    for eye in ("left", "right"):
        (folder / "walk" / eye).mkdir(parents=True)
    # Spawned, because a fork of a process with OpenCV's threads may hang.
    with ProcessPoolExecutor(CORES, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_render_places, walk, folder / "places")]
        jobs += [pool.submit(_render_walk, walk, folder / "walk", core, until_s) for core in range(CORES)]
        for job in jobs:
            job.result()
    return {"cores": CORES, "pairs": len(pairs_of(folder))}


def pairs_of(folder: Path) -> list[tuple[Path, Path]]:
    """Return the files of both eyes of all pairs, in their order. Raises ValueError if there are none."""
    lefts = sorted((folder / "walk" / "left").glob("*.jpg"))
    if lefts:
        pairs = ((left, folder / "walk" / "right" / left.name) for left in lefts)
        return [(left, right) for left, right in pairs if right.exists()]
    photographs = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
    if not photographs:
        raise ValueError(f"{folder} holds no JPEG files")
    return [(path, path) for path in photographs]


def read_pairs(folder: Path, most: int) -> Pairs:
    """Read the files of at most `most` pairs. Raises ValueError if there are none."""
    return [(left.read_bytes(), right.read_bytes()) for left, right in pairs_of(folder)[:most]]


def decode(pairs: Pairs, left: Image, right: Image, aspect: NDArray[np.float32], threads: int = CORES) -> None:
    """Decode onto the canvas of `left` and `right`, uint8 [n, h, w, 3] BGR, and set width / height, [n]. Raises ValueError."""
    cv2.setNumThreads(1)

    def put(index: int) -> None:
        for data, images in zip(pairs[index], (left, right), strict=True):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                raise ValueError("OpenCV could not decode a JPEG of the given images")
            images[index] = on_canvas(np.asarray(image, np.uint8), images.shape[1:3])
            aspect[index] = image.shape[1] / image.shape[0]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(put, range(len(pairs))))


def has_places(folder: Path) -> bool:
    """Return whether the control set of rooms is there."""
    return (folder / "places" / "train").is_dir()


def make_pack(file: Path, walk: Walk = PACK) -> str:
    """Render images and pack them into a tar file, whose name ends in .tar; return that name."""
    with tempfile.TemporaryDirectory() as folder:
        render(walk, Path(folder), time.monotonic() + PACK_SECONDS)
        return shutil.make_archive(str(file).removesuffix(".tar"), "tar", folder)


def _render_walk(walk: Walk, folder: Path, first: int, until_s: float) -> None:
    """Render the pairs with numbers first, first + CORES, ...

    The right file is written first, so that a left file shows that the pair is complete.
    """
    cv2.setNumThreads(1)
    camera = SimCamera(walk.config)
    frames = islice(enumerate(camera.poses()), 0, EVERY * walk.pairs, EVERY)
    for number, (index, pose) in islice(enumerate(frames), first, None, CORES):
        if time.monotonic() > until_s:
            return
        shot = camera.shot(index, pose)
        for eye, image in (("right", shot.right.pixels), ("left", shot.left.pixels)):
            assert image is not None  # the simulator gives pixels
            cv2.imwrite(str(folder / eye / f"{number:06d}.jpg"), image, QUALITY)


def _render_places(walk: Walk, folder: Path) -> None:
    cv2.setNumThreads(1)
    write_control_set(folder, config=walk.config, per_place=walk.per_place)
    for path in folder.rglob("*.png"):
        cv2.imwrite(str(path.with_suffix(".jpg")), np.asarray(cv2.imread(str(path))), QUALITY)
        path.unlink()
