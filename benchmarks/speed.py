"""How fast is each side alone? Pairs per second of the rig from shot to message, samples per second of the learner.

Everything is timed on one thread, the rows take turns in each round, and the median over the rounds is reported. Nothing is
compared with other software here, so the figures describe this machine only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Literal

import cv2
import numpy as np
import torch
from rich.table import Table

from benchmarks.shared.bench import Bench, RoundsSettings, figure_table, in_turns, medians, seconds_of
from benchmarks.shared.bounds import Count
from benchmarks.shared.pairs import HD, kept_pairs, rendered_eyes, rendered_pairs
from benchmarks.shared.probing import use_one_thread
from benchmarks.shared.recipes import PRESETS, Preset
from device.camera import EyeImage, Shot
from device.dedupe import DedupeConfig
from device.sim.camera import SimCamera
from learner.loop import Learner
from stream.codec import to_parts
from stream.image import Image

CANVAS = (240, 320)
SHOT_PERIOD_NS = 100_000_000


@dataclass(frozen=True, kw_only=True)
class SpeedSettings(RoundsSettings):
    """Measure the speed of the rig and of the learner alone, on one thread each."""

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
    new, same = _shots(views, "pixels", count), _shots(views[:1], "pixels", count)
    own = _shots([(_jpeg(left), _jpeg(right)) for left, right in views], "jpeg", count)
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
    return len(shots) / seconds_of(lambda: [to_parts(pair) for pair in kept_pairs(shots, seed=0, dedupe=config)])


def _rendered_per_s(count: int) -> float:
    camera = iter(SimCamera(start_ns=0))
    return count / seconds_of(lambda: list(islice(camera, count)))


def _learner_row(settings: SpeedSettings) -> Callable[[], float]:
    """Return the row of the learner: training steps on a memory filled from the simulated walk, without receiving or waiting."""
    learner = Learner(PRESETS[settings.preset], torch.device("cpu"))
    batch = learner.config.pacing.batch_size
    for pair in rendered_pairs(2 * batch, CANVAS):
        learner.add(pair)
    learner.close_clips()
    return lambda: settings.steps * batch / seconds_of(lambda: [learner.step() for _ in range(settings.steps)])


def _jpeg(image: Image) -> bytes:
    return np.asarray(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]).tobytes()


def _shots(views: Sequence[tuple[Any, Any]], kind: Literal["pixels", "jpeg"], count: int) -> list[Shot]:
    """Return `count` shots, which show the views again and again, each at its time."""

    def eye(n: int, image: Any) -> EyeImage:
        return EyeImage(n * SHOT_PERIOD_NS, **{kind: image})

    return [Shot(eye(n, left), eye(n, right)) for n, (left, right) in enumerate(islice(cycle(views), count))]
