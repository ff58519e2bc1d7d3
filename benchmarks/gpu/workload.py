"""The inputs of all parts of the GPU bench: settings at both scales, batches, and the error of a result against its reference.

As a part of its own this module estimates the cost of a step at full size without a GPU: the step runs on tensors that have
shapes but no contents.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.parts import Task
from benchmarks.shared.recipes import with_original_numbers
from benchmarks.step.bare import bare_step
from learner.config import LearnerConfig, preset
from learner.objectives.babyagent import BabyAgent
from learner.objectives.contract import Batch, ObjectiveConfig
from learner.objectives.contrastive import ContrastiveConfig
from learner.trainer import Trainer
from learner.views.guided import GuidedConfig

PEAK_FLOPS = 989e12
"""Peak rate of an H100 or H200 in bfloat16, from its datasheet."""


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
        size, sizes = ("gpu", (128, 256, 512)) if task.is_full else ("cpu", (8, 16))
        known = task.results("step")
        return cls(
            config=dataclasses.replace(preset(size, BabyAgent), precision="bfloat16"),
            device=torch.device(task.device),
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
    def objectives(self) -> dict[str, ObjectiveConfig]:
        """The settings of each objective: `babyagent` with the preset's and with the original numbers, and InfoNCE."""
        original = with_original_numbers(self.config).objective
        return {"babyagent": self.config.objective, "original": original, "contrastive": self._contrastive()}

    def with_two_views(self) -> Self:
        """Return the workload with an objective that learns from one large view of each eye."""
        return self.changed(objective=self._contrastive(crops=1, student_size=self.large))

    @property
    def large(self) -> int:
        """Side of the large view in pixels."""
        return self.config.crops.probe_size

    def _contrastive(self, **changes: Any) -> ContrastiveConfig:
        names = [*(field.name for field in dataclasses.fields(GuidedConfig)), "teacher_momentum"]
        return ContrastiveConfig(**{name: getattr(self.config.objective, name) for name in names} | changes)


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
    """Copy a Batch, its views or what they consist of to another compute device."""
    if isinstance(what, Tensor):
        return what.to(device)
    if isinstance(what, Mapping):
        return {name: moved(one, device) for name, one in what.items()}
    if dataclasses.is_dataclass(what) and not isinstance(what, type):
        return type(what)(*(moved(getattr(what, field.name), device) for field in dataclasses.fields(what)))
    return what


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return |found - expected| / |expected| as Euclidean norms in float64; infinity where `found` has a NaN."""
    left, right = found.detach().double().cpu(), expected.detach().double().cpu()
    error = float((left - right).norm() / right.norm().clamp_min(1e-30))
    return error if np.isfinite(error) else float("inf")


def run(task: Task) -> None:
    """Estimate the step of the preset, and a step with two large views."""
    mode, work = FakeTensorMode(), Workload.of(dataclasses.replace(task, scale="full", device="cpu"))
    for name, one in (("babyagent", work), ("two views", work.with_two_views())):
        task.attempt(name, partial(estimate, mode, one.config, work.sizes[0]))


def estimate(mode: FakeTensorMode, config: LearnerConfig, count: int) -> dict[str, Any]:
    """Return the operations of a step, without fused attention (3 % more), and the bytes kept from forward to backward.

    Call it in a process that trains nothing afterwards: constants that views keep have no contents then.
    """
    trainer = Trainer(config, torch.device("cpu"))
    objective: Any = trainer.objective
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    objective._apply(mode.from_tensor)
    trainer.optimizer = torch.optim.AdamW(objective.trained())
    kept: dict[int, int] = {weight.untyped_storage()._cdata: 0 for weight in objective.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes())
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with mode, FlopCounterMode(display=False) as counter, hooks:
        images = torch.empty(count, *config.memory.canvas, 3, dtype=torch.uint8)
        bare_step(trainer, Batch(images, images.clone(), torch.ones(count)))
    flops = counter.get_total_flops() / count
    return {
        "gflop_a_pair": flops / 1e9,
        "pairs_per_s_at_peak": PEAK_FLOPS / flops,
        "mib_kept_a_pair": sum(kept.values()) / count / 2**20,
        "trained_weights": sum(weight.numel() for weight in objective.trained()),
    }
