"""The inputs of all parts of the GPU bench: settings at both scales, batches, and the error of a result against its reference."""

from __future__ import annotations

import dataclasses
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor

from benchmarks.gpu.pictures import decoded, pairs_of
from benchmarks.gpu.task import Task, read_lines
from learner.config import PRESETS, LearnerConfig
from learner.memory.slots import Slots
from learner.objectives.babyagent import BabyAgentConfig
from learner.objectives.contract import Batch, Look, ObjectiveConfig
from learner.objectives.contrastive import ContrastiveConfig
from learner.objectives.guided import GuidedConfig
from learner.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The settings of a measurement on a compute device.

    sizes: batch sizes, the usual one first. round_s: approximate seconds of a round of steps. flops: operations of a step for
    each pair; peak_flops: the largest number of operations that the device does per second. Both are nan if they are not known.
    """

    config: LearnerConfig
    device: torch.device
    sizes: tuple[int, ...]
    round_s: float
    flops: float = math.nan
    peak_flops: float = math.nan

    @classmethod
    def of(cls, task: Task) -> Self:
        """Return DeiT-S with all views, or the small preset at rehearsal scale; in bfloat16, which both kinds of devices support.

        The limits of the GPU are those that the part `step` has measured.
        """
        preset, sizes = (PRESETS["babyagent"], (128, 256, 512)) if task.is_full else (PRESETS["cpu"], (8, 16))
        here = "cuda" if torch.cuda.is_available() else "cpu"
        known = read_lines(Path(task.lines).with_name("step.lines.jsonl"))
        return cls(
            config=dataclasses.replace(preset, precision="bfloat16"),
            device=torch.device(here if task.device == "auto" else task.device),
            sizes=sizes,
            round_s=0.3 if task.is_full else 0.02,
            flops=known.get("flops", {}).get("of_a_pair", math.nan),
            peak_flops=known.get("card", {}).get("peak_flops", math.nan),
        )

    def changed(self, **settings: Any) -> Self:
        """Return the workload with other settings of the learner."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **settings))

    def start(self, count: int, seed: int = 0) -> tuple[Trainer, Batch]:
        """Make a trainer, and a batch of so many pairs for it; return both."""
        return Trainer(self.config, self.device), random_batch(self.config, count, self.device, seed)

    @property
    def views(self) -> dict[str, Any]:
        """The settings of views that all guided objectives have."""
        return {field.name: getattr(self.config.objective, field.name) for field in dataclasses.fields(GuidedConfig)}

    @property
    def objectives(self) -> dict[str, ObjectiveConfig]:
        """The settings of each objective: the preset's, the original experiment's, InfoNCE."""
        default = self.config.objective
        assert isinstance(default, BabyAgentConfig)
        original = dataclasses.replace(default, centring="ema", repulsion=0.1, repelled_by="crops")
        return {
            "default": default,
            "original": dataclasses.replace(original, repulsion_temperature=0.05),
            "contrastive": ContrastiveConfig(**self.views),
        }

    def with_two_views(self) -> Self:
        """Return the workload with an objective that learns from one large view of each eye."""
        views = self.views
        return self.changed(objective=ContrastiveConfig(**views | {"crops": 1, "student_size": views["teacher_size"]}))

    @property
    def large(self) -> int:
        """Side of the large view in pixels."""
        return self.config.objective.probe_size


def random_batch(config: LearnerConfig, count: int, device: torch.device, seed: int = 0) -> Batch:
    """Make pairs of coloured patches with noise, uint8 on the canvas; the right eye is the left one, shifted."""
    generator = torch.Generator().manual_seed(seed)
    height, width = config.memory.canvas
    patches = F.interpolate(torch.rand(count, 3, 9, 12, generator=generator), (height, width), mode="bicubic")
    noisy = patches + 0.05 * torch.randn(patches.shape, generator=generator)
    left = (255 * noisy.clamp(0, 1)).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    batch: Batch = moved(Batch(left, left.roll(-8, 2), torch.full((count,), width / height)), device)
    return batch


def moved(what: Any, device: torch.device) -> Any:
    """Copy a Batch, or its views as a Look, to another compute device."""
    assert isinstance(what, (Batch, Look))
    return type(what)(*(getattr(what, field.name).to(device) for field in dataclasses.fields(what)))


def filled_slots(task: Task, config: LearnerConfig, most: int) -> Slots:
    """Decode at most `most` of the given pairs onto the canvas of memory. Raises ValueError if there are none."""
    files = pairs_of(Path(task.pictures))[:most]
    slots = Slots(len(files), config.memory.canvas)

    def put(slot: int) -> None:
        for eye, images in zip(files[slot], (slots.left, slots.right), strict=True):
            image, slots.aspect[slot] = decoded(eye.read_bytes(), config.memory.canvas)
            images[slot] = torch.from_numpy(image)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(put, range(len(files))))
    return slots


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return |found - expected| / |expected| as Euclidean norms in float64; infinity where `found` has a NaN."""
    left, right = found.detach().double().cpu(), expected.detach().double().cpu()
    error = float((left - right).norm() / right.norm().clamp_min(1e-30))
    return error if np.isfinite(error) else float("inf")
