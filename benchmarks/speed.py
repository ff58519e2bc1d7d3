"""How fast is each side alone? Pairs per second of the rig from shot to message, samples per second of the learner.

Everything is timed on one thread, the rows take turns in each round, and the median over the rounds is reported. Nothing is
compared with other software here, so the figures describe this machine only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TypeVar

import cv2
import numpy as np
import torch
from rich.table import Table

from benchmarks.shared.bench import Bench, BenchSettings, figure_table, in_turns, medians
from benchmarks.shared.bounds import Count
from benchmarks.shared.pairs import HD, kept_pairs, rendered_eyes, rendered_pairs
from benchmarks.shared.probing import use_one_thread
from benchmarks.shared.recipes import Preset
from device.camera import EyeImage, Shot
from device.dedupe import DedupeConfig
from device.sim.camera import SimCamera
from learner.config import PRESETS
from learner.loop import Learner
from stream.codec import to_parts
from stream.image import Image

Picture = TypeVar("Picture", Image, bytes)
CANVAS = (240, 320)
SHOT_PERIOD_NS = 100_000_000


@dataclass(frozen=True, kw_only=True)
class SpeedSettings(BenchSettings):
    """Measure the speed of the rig and of the learner alone, on one thread each."""

    rounds: Count = 5
    """Rounds in which every row is timed once; the median is reported."""
    pairs: Count = 60
    """Pairs of the rig in a round."""
    steps: Count = 10
    """Training steps in a round."""
    preset: Preset = "cpu"
    """The learner's settings."""


def measure(settings: SpeedSettings) -> dict[str, float]:
    """Return the items per second of each row."""
    use_one_thread()
    rows = _rig_rows(settings.pairs) | {f"learner: samples, preset {settings.preset}": _learner_row(settings)}
    return medians(in_turns(rows, settings.rounds), 1)


def render(settings: SpeedSettings, rates: dict[str, float]) -> list[Table]:
    """Return one table of the figures."""
    rows = {name: [f"{rate:.1f}"] for name, rate in rates.items()}
    return [figure_table(f"median of {settings.rounds} rounds", ("row", "a second, one thread"), rows)]


COMMAND = Bench(SpeedSettings, measure, render)


def _rig_rows(count: int) -> dict[str, Callable[[], float]]:
    """Return the rows of the rig by name, as functions that return items per second.

    They go from a 720p shot to the parts of a message: only new shots, only duplicates, and a camera's own JPEG. One row is the
    simulator.
    """
    views = rendered_eyes(10, HD, every=8)
    jpegs = [(_jpeg(left), _jpeg(right)) for left, right in views]
    new = [Shot(EyeImage(n, left), EyeImage(n, right)) for n, (left, right) in _timed_views(views, count)]
    same = [Shot(EyeImage(n, left), EyeImage(n, right)) for n, (left, right) in _timed_views(views[:1], count)]
    own = [Shot(EyeImage(n, jpeg=left), EyeImage(n, jpeg=right)) for n, (left, right) in _timed_views(jpegs, count)]
    # If every shot has to be new, a ring of earlier views must not be searched.
    all_new = DedupeConfig(threshold=1e-6, ring=0, audit_share=0.0)
    duplicates = DedupeConfig(threshold=16.0, ring=64, audit_share=0.0)
    return {
        "rig: 720p pixels, all new, encoded": lambda: _shots_per_s(new, all_new),
        "rig: 720p pixels, all duplicates": lambda: _shots_per_s(same, duplicates),
        "rig: 720p camera's JPEG, all new": lambda: _shots_per_s(own, all_new),
        "simulator: 320x240 pairs rendered": lambda: _rendered_per_s(count),
    }


def _shots_per_s(shots: Sequence[Shot], config: DedupeConfig) -> float:
    """Return the shots per second through capture, until the parts of a message are ready."""
    started_s = time.perf_counter()
    for pair in kept_pairs(shots, seed=0, dedupe=config):
        to_parts(pair)
    return len(shots) / (time.perf_counter() - started_s)


def _rendered_per_s(count: int) -> float:
    camera = iter(SimCamera(start_ns=0))
    started_s = time.perf_counter()
    for _ in islice(camera, count):
        pass
    return count / (time.perf_counter() - started_s)


def _learner_row(settings: SpeedSettings) -> Callable[[], float]:
    """Return the row of the learner: training steps on a memory filled from the simulated walk, without receiving or waiting."""
    learner = Learner(PRESETS[settings.preset], torch.device("cpu"))
    batch = learner.config.pacing.batch_size
    for pair in rendered_pairs(2 * batch, CANVAS):
        learner.add(pair)

    def samples_per_s() -> float:
        started_s = time.perf_counter()
        for _ in range(settings.steps):
            learner.step()
        return settings.steps * batch / (time.perf_counter() - started_s)

    return samples_per_s


def _jpeg(image: Image) -> bytes:
    return np.asarray(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]).tobytes()


def _timed_views(views: Sequence[tuple[Picture, Picture]], count: int) -> list[tuple[int, tuple[Picture, Picture]]]:
    """Return the views repeatedly, until there are `count`, each with its capture time in nanoseconds."""
    return [(n * SHOT_PERIOD_NS, view) for n, view in enumerate(islice(cycle(views), count))]
