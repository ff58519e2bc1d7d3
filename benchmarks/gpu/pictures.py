"""The images of the bench, a folder of JPEG files: rendered from the simulated walk on all cores, or given.

    walk/left/000000.jpg  walk/right/000000.jpg      the pairs to train on
    places/train|test/place_XX/*.jpg                 rooms on two other walks of the same world, a control set

In a folder without `walk/`, each JPEG file is both eyes of a pair.
"""

from __future__ import annotations

import multiprocessing
import os
import tarfile
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from benchmarks.gpu.task import Task
from device.sim.camera import SimCamera, SimConfig
from device.sim.control_set import write_control_set
from learner.memory.canvas import on_canvas
from stream.image import Image

QUALITY = 90
EVERY = 2
"""Each n-th frame of the walk becomes a pair."""
PACK_SECONDS = 120.0


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
    cores = len(os.sched_getaffinity(0))
    # Spawned, because a fork of a process with OpenCV's threads may hang.
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs: list[Future[None]] = [pool.submit(_render_places, walk, folder / "places")]
        jobs += [pool.submit(_render_walk, walk, folder / "walk", core, cores, until_s) for core in range(cores)]
        for job in jobs:
            job.result()
    return {"cores": cores, "pairs": len(pairs_of(folder)), "megabytes": _bytes(folder) / 1e6}


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


def decoded(data: bytes, canvas: tuple[int, int]) -> tuple[Image, float]:
    """Decode a JPEG onto the canvas: uint8 [h, w, 3] BGR, and its width / height. Raises ValueError."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("OpenCV could not decode a JPEG of the given images")
    return on_canvas(np.asarray(image, np.uint8), canvas), image.shape[1] / image.shape[0]


def has_places(folder: Path) -> bool:
    """Return whether the control set of rooms is there."""
    return (folder / "places" / "train").is_dir()


def make_pack(file: Path, folder: Path, walk: Walk = PACK) -> int:
    """Render into `folder`, and pack it into a tar file; return the size of the file in bytes."""
    render(walk, folder, time.monotonic() + PACK_SECONDS)
    with tarfile.open(file, "w") as pack:
        pack.add(folder, arcname=".")
    return file.stat().st_size


def unpack(file: Path, folder: Path) -> None:
    """Unpack a tar file of images. Raises OSError or tarfile.TarError."""
    with tarfile.open(file) as pack:
        pack.extractall(folder, filter="data")


def _render_walk(walk: Walk, folder: Path, first: int, step: int, until_s: float) -> None:
    """Render the pairs with numbers first, first + step, ...

    The right file is written first, so that a left file shows that the pair is complete.
    """
    cv2.setNumThreads(1)
    camera = SimCamera(walk.config)
    frames = islice(enumerate(camera.poses()), 0, EVERY * walk.pairs, EVERY)
    for number, (index, pose) in islice(enumerate(frames), first, None, step):
        if time.monotonic() > until_s:
            return
        shot = camera.shot(index, pose)
        for eye, image in (("right", shot.right.pixels), ("left", shot.left.pixels)):
            assert image is not None  # the simulator gives pixels
            cv2.imwrite(str(folder / eye / f"{number:06d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


def _render_places(walk: Walk, folder: Path) -> None:
    cv2.setNumThreads(1)
    write_control_set(folder, config=walk.config, per_place=walk.per_place)
    for path in folder.rglob("*.png"):
        cv2.imwrite(
            str(path.with_suffix(".jpg")), np.asarray(cv2.imread(str(path))), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        )
        path.unlink()


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.jpg"))
