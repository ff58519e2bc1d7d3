"""Is it worth bringing rows together? Trains on the pairs of a recording as they are and corrected, and compares the features.

The objective compares the same place of both images. The first pairs train, the last ones only measure: crops of their left
images look for their right ones. Both networks are asked on corrected images, so that training alone differs, and on images as
they are. Runs with the same seed begin with the same weights and see the same pairs.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks.shared import probing
from benchmarks.shared.bench import Bench, BenchSettings, figure_table, report_progress
from benchmarks.shared.bounds import Count, Within
from benchmarks.shared.recipes import PRESETS, Preset, changed, spent_over
from benchmarks.shared.results import Result, Seeds, in_processes
from device.camera import CameraSettings, Shot, pixels_of
from device.cameras.open import open_camera
from learner.errors import SettingsError
from learner.loop import Learner, learn
from learner.probes.probe import extract
from stream.calibration.rows import matched_rows, row_offset
from stream.codec import encode_pair
from stream.image import Image
from stream.pair import EncodedPair
from stream.source import IteratorSource

ARMS = ("as they are", "corrected")
GRID = (3, 4)
"""Crops of an image down and across, each half as high as the image."""
MIN_PAIRS = 10
MAX_PAIRS = 1000
Pairs = list[tuple[Image, Image]]


@dataclass(frozen=True, kw_only=True)
class RowsSettings(BenchSettings):
    """Measure what rows that agree are worth to the features."""

    camera: str
    """A recording, as `python -m device --camera` names it; at most 1000 pairs of it are used."""
    rectify: tuple[Path, ...] = ()
    """The correction, as for `python -m device`: a calibration."""
    row_shift_px: int | Literal["auto"] | None = None
    """Or a shift."""
    held_out: Annotated[float, Within(0.1, 0.9)] = 0.3
    """Share of the pairs, the last ones, that only measure."""
    preset: Preset = "cpu"
    """The learner's settings."""
    steps: Count = 250
    """Training steps of a run."""
    batch_size: Count = 32
    """Pairs in a step."""
    seeds: Seeds = (1, 2, 3)
    """Seeds of weights and views."""
    jobs: Count = 1
    """Number of runs at the same time; each uses one thread."""


def measure(settings: RowsSettings) -> dict[str, Any]:
    """Return the row offset of both arms, and the recalls of each run."""
    rows = {arm: _offset(pairs) for arm, pairs in zip(ARMS, _both(settings), strict=True)}
    keys = list(itertools.product(settings.seeds, ARMS))
    found: list[Result] = []
    for (seed, arm), figures in in_processes(partial(_run, settings=settings), keys, settings.jobs):
        found.append({"seed": seed, "arm": arm, **figures})
        report_progress(f"seed {seed}, {arm}: {figures}")
    return {"rows": rows, "runs": sorted(found, key=lambda run: (run["seed"], run["arm"]))}


def render(_settings: RowsSettings, figures: dict[str, Any]) -> list[Table]:
    """Return a table of the arms, and one of the gains by seed."""
    names = [name for name in figures["runs"][0] if name not in ("seed", "arm")]
    cells = {arm: [figures["rows"][arm]] for arm in ARMS}
    gains: dict[str, list[str]] = {}
    for name in names:
        values = {arm: np.array([run[name] for run in figures["runs"] if run["arm"] == arm]) for arm in ARMS}
        gain = values[ARMS[1]] - values[ARMS[0]]
        error = gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else math.nan
        gains[name] = [f"{values[arm].mean():.3f}" for arm in ARMS] + [f"{gain.mean():+.3f}", f"{error:.3f}"]
    return [
        figure_table("rows", ("pairs", "vertical offset"), cells),
        figure_table("by training", ("figure", *ARMS, "gain", "standard error"), gains),
    ]


COMMAND = Bench(RowsSettings, measure, render)


def _run(key: tuple[int, str], settings: RowsSettings) -> Result:
    """Train one network and ask it for the right crop of each left one."""
    probing.use_one_thread()
    seed, arm = key
    plain, corrected = _both(settings)
    first = len(plain) - round(settings.held_out * len(plain))
    chosen = (plain if arm == ARMS[0] else corrected)[:first]
    config = changed(replace(PRESETS[settings.preset], seed=seed), {"pacing.batch_size": settings.batch_size})
    learner = Learner(spent_over(config, settings.steps, first), torch.device("cpu"))
    started_s = time.process_time()
    for _ in learn(learner, IteratorSource(map(_encoded, itertools.count(), chosen)), clock=time.monotonic):
        pass
    took_s = time.process_time() - started_s
    student, size = probing.student_of(learner), config.crops.probe_size
    return {
        "steps": learner.steps,
        "cpu_s": round(took_s, 1),
        "whole image, corrected": _recall(student, corrected[first:], size, (1, 1)),
        "crop, corrected": _recall(student, corrected[first:], size, GRID),
        "whole image, as it is": _recall(student, plain[first:], size, (1, 1)),
        "crop, as it is": _recall(student, plain[first:], size, GRID),
    }


def _both(settings: RowsSettings) -> tuple[Pairs, Pairs]:
    """Return the pairs as they are and corrected. Raises SettingsError if there are too few, or nothing corrects them."""
    if not settings.rectify and settings.row_shift_px is None:
        raise SettingsError("say with --rectify or --row-shift-px how rows are brought together")
    corrections = CameraSettings(), CameraSettings(rectify=settings.rectify, row_shift_px=settings.row_shift_px)
    plain, corrected = (_pairs(settings.camera, correction) for correction in corrections)
    least = max(MIN_PAIRS, math.ceil((settings.batch_size + 1) / (1 - settings.held_out)))
    if len(plain) != len(corrected) or len(plain) < least:
        counts = f"{len(plain)} and {len(corrected)} pairs"
        raise SettingsError(f"{settings.camera}: {counts}, at least {least} are needed for this --batch-size")
    return plain, corrected


def _pairs(camera: str, settings: CameraSettings) -> Pairs:
    with closing(open_camera(camera, settings)) as opened:
        shots = [shot for shot in itertools.islice(opened, MAX_PAIRS) if isinstance(shot, Shot)]
    return [(_colour(pixels_of(shot.left)), _colour(pixels_of(shot.right))) for shot in shots]


def _encoded(seq: int, pair: tuple[Image, Image]) -> EncodedPair:
    time_ns = (seq + 1) * 100_000_000
    return encode_pair(*pair, device="bench", epoch="0" * 32, seq=seq, left_ns=time_ns, right_ns=time_ns, codec="lz4")


def _offset(pairs: Pairs) -> str:
    found = row_offset([matched_rows(*pair) for pair in pairs], pairs[0][0].shape[0])
    return (
        "not known" if found is None else f"{found.px:+.1f} px, spread {found.spread_px:.1f}, {found.matches} matches"
    )


def _recall(student: nn.Module, pairs: Pairs, size: int, grid: tuple[int, int]) -> float:
    """Return the share of left crops whose nearest right crop, among those of all pairs, is of the same pair and place."""
    eyes = [np.array([crop for pair in pairs for crop in _crops(pair[eye], size, grid)]) for eye in (0, 1)]
    left, right = (nn.functional.normalize(_features(student, images), dim=1) for images in eyes)
    nearest = (left @ right.T).argmax(dim=1)
    return round(float((nearest == torch.arange(len(left))).float().mean()), 4)


def _features(student: nn.Module, images: Image) -> Tensor:
    return extract(student, images, device="cpu")


def _crops(image: Image, size: int, grid: tuple[int, int]) -> Iterator[Image]:
    """Yield crops in rows and columns over an image, squeezed to squares; the whole image if there is one."""
    height, width = image.shape[:2]
    down, across = (height, width) if grid == (1, 1) else (height // 2, height // 2)
    for y, x in itertools.product(_starts(height - down, grid[0]), _starts(width - across, grid[1])):
        crop = image[y : y + down, x : x + across]
        yield np.asarray(cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def _starts(last: int, count: int) -> Sequence[int]:
    return [round(start) for start in np.linspace(0, last, count)]


def _colour(image: Image) -> Image:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
