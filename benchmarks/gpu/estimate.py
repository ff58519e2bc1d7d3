"""Estimates the cost of a step at full size without a GPU: the step runs on tensors that have shapes but no contents."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.task import Task
from benchmarks.gpu.workload import Workload
from benchmarks.step.bare import bare_step
from learner.config import LearnerConfig
from learner.objectives.contract import Batch
from learner.trainer import Trainer

PEAK_TFLOPS = 989.0
"""Peak rate of an H100 or H200 in bfloat16, from its datasheet."""


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

    with (
        mode,
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        images = torch.empty(count, *config.memory.canvas, 3, dtype=torch.uint8)
        bare_step(trainer, Batch(images, images.clone(), torch.ones(count)))
    flops = counter.get_total_flops() / count
    return {
        "gflop_a_pair": flops / 1e9,
        "pairs_per_s_at_peak": PEAK_TFLOPS * 1e12 / flops,
        "mib_kept_a_pair": sum(kept.values()) / count / 2**20,
        "trained_weights": sum(weight.numel() for weight in objective.trained()),
    }
