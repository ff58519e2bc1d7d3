"""How fast is each side alone? Pairs a second of the rig from shot to wire, samples a second of the learner.

Everything is timed on one thread, the rows take turns in each round, and the median over the rounds is reported. Nothing is
timed against a peer here, so the figures are this machine's and no claim.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TypeVar

import cv2
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from device.camera import EyeImage, Shot
from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from device.sim.camera import SimCamera
from learner.config import PRESETS
from learner.loop import Learner
from stream.codec import encode_pair, to_parts
from stream.image import Image
from stream.pair import EncodedPair

T = TypeVar("T", Image, bytes)
HD = (720, 1280)
EPOCH = "0" * 32
Row = Callable[[], float]
"""Does its work once and returns items a second."""


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """Time the rig and the learner alone, on one thread each."""

    rounds: int = 5
    """Rounds in which every row is timed once; the median is reported."""
    pairs: int = 60
    """Pairs of the rig in a round."""
    steps: int = 10
    """Training steps in a round."""
    preset: str = "cpu"
    """The learner's settings."""
    json: bool = False
    """One JSON object instead of the table."""


def main(arguments: Sequence[str]) -> int:
    """Time all rows and print them."""
    settings = tyro.cli(SpeedSettings, args=list(arguments), prog="python -m benchmarks speed")
    if settings.preset not in PRESETS or min(settings.rounds, settings.pairs, settings.steps) < 1:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}; rounds, pairs and steps at least 1")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rows = _rig_rows(settings.pairs) | {f"learner: samples, preset {settings.preset}": _learner_row(settings)}
    rates: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(settings.rounds):
        for name, row in rows.items():
            rates[name].append(row())
    medians = {name: round(statistics.median(found), 1) for name, found in rates.items()}
    if settings.json:
        sys.stdout.write(json.dumps(medians) + "\n")
        return 0
    table = Table("what", "a second, one thread", title=f"median of {settings.rounds} rounds")
    for name, rate in medians.items():
        table.add_row(name, f"{rate:.1f}")
    Console().print(table)
    return 0


def _rig_rows(count: int) -> dict[str, Row]:
    """From shot to wire at 720p: all new, all duplicates, and the camera's own JPEG; and the simulator itself."""
    walk = SimCamera(size=HD, start_ns=0)
    views = [_pixels(shot) for shot in islice(iter(walk), 0, 8 * 10, 8)]
    fresh = [Shot(EyeImage(n, left), EyeImage(n, right)) for n, (left, right) in _numbered(views, count)]
    still = [Shot(EyeImage(n, left), EyeImage(n, right)) for n, (left, right) in _numbered(views[:1], count)]
    packed = [(_jpeg(left), _jpeg(right)) for left, right in views]
    own = [Shot(EyeImage(n, jpeg=left), EyeImage(n, jpeg=right)) for n, (left, right) in _numbered(packed, count)]
    return {
        "rig: 720p pixels, all new, encoded": lambda: _rate(fresh, threshold=0.0),
        "rig: 720p pixels, all duplicates": lambda: _rate(still, threshold=16.0),
        "rig: 720p camera's JPEG, all new": lambda: _rate(own, threshold=0.0),
        "simulator: 320x240 pairs rendered": lambda: _rendered(count),
    }


def _rate(shots: Sequence[Shot], *, threshold: float) -> float:
    """Shots a second through capture, to the parts of a message. Earlier views are not looked for: each is news."""
    config = DedupeConfig(threshold=max(threshold, 1e-6), ring=0 if threshold == 0 else 64, audit_share=0.0)
    started_s = time.perf_counter()
    for pair in capture(shots, Dedupe(config, seed=0), device="bench", epoch=EPOCH):
        to_parts(pair)
    return len(shots) / (time.perf_counter() - started_s)


def _rendered(count: int) -> float:
    camera = iter(SimCamera(start_ns=0))
    started_s = time.perf_counter()
    for _ in islice(camera, count):
        pass
    return count / (time.perf_counter() - started_s)


def _learner_row(settings: SpeedSettings) -> Row:
    """Training steps on a memory filled from the simulated walk; no receiving, no waiting."""
    learner = Learner(PRESETS[settings.preset], torch.device("cpu"))
    batch = learner.config.pacing.batch_size
    for pair in _walk_pairs(2 * batch):
        learner.add(pair)

    def row() -> float:
        started_s = time.perf_counter()
        for _ in range(settings.steps):
            learner.step()
        return settings.steps * batch / (time.perf_counter() - started_s)

    return row


def _walk_pairs(count: int) -> list[EncodedPair]:
    shots = islice(iter(SimCamera(start_ns=0)), 0, count * 2, 2)
    return [
        encode_pair(*_pixels(shot), device="bench", epoch=EPOCH, seq=seq, left_ns=seq, right_ns=seq)
        for seq, shot in enumerate(shots)
    ]


def _pixels(shot: Shot) -> tuple[Image, Image]:
    left, right = shot.left.pixels, shot.right.pixels
    assert left is not None
    assert right is not None
    return left, right


def _jpeg(image: Image) -> bytes:
    return np.asarray(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]).tobytes()


def _numbered(views: Sequence[tuple[T, T]], count: int) -> list[tuple[int, tuple[T, T]]]:
    """The views again and again, with capture times a tenth of a second apart."""
    return [(n * 100_000_000, view) for n, view in enumerate(islice(cycle(views), count))]
