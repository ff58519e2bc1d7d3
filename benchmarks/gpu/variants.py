"""Is the same step faster in another way? Compiled blocks, CUDA graphs, TF32, memory formats, optimisers.

Each variant is the bare step of `benchmarks.step.bare` on the same batch. A variant that fails is a result too, so the riskiest
variants come last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.step import measured
from benchmarks.gpu.task import Task
from benchmarks.gpu.workload import Workload
from benchmarks.step.bare import bare_step
from learner.objectives.contract import Batch
from learner.trainer import Trainer

VARIANTS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "tf32": ("tf32",),
    "channels last": ("channels_last",),
    "AdamW foreach": ("foreach",),
    "compiled blocks": ("compile",),
    "one CUDA graph": ("graph",),
    "compiled blocks, tf32, one CUDA graph": ("tf32", "compile", "graph"),
    "compiled blocks, reduce-overhead": ("reduce-overhead",),
}
NEEDS_S = 30.0
"""Seconds that a variant needs at least: compiling takes about as long."""


def run(task: Task) -> None:
    """Measure every variant at the usual batch size, then the fastest variant at the larger sizes."""
    work, fastest, least_ms = Workload.of(task), "as it is", math.inf
    for name, options in VARIANTS.items():
        is_slow = not {"graph", "compile", "reduce-overhead"}.isdisjoint(options)
        if is_slow and work.device.type == "cpu":
            task.report(name, {"skipped": "a CPU has no CUDA graphs, and compiling takes it minutes"})
            continue
        figures = task.attempt(name, partial(variant, work, work.sizes[0], options), needs_s=NEEDS_S if is_slow else 0)
        if figures.get("step_ms", math.inf) < least_ms:
            fastest, least_ms = name, figures["step_ms"]
    for count in work.sizes[1:]:
        options = VARIANTS[fastest]
        needs_s = NEEDS_S if options else 0
        task.attempt(f"{fastest}, batch {count}", partial(variant, work, count, options), needs_s=needs_s)


def variant(work: Workload, count: int, options: tuple[str, ...]) -> dict[str, Any]:
    """Return the pace of one variant, and its loss after these steps, which shows whether it still trains."""
    try:
        step = prepared(*work.start(count), options)
        figures = measured(step, work, count)
        loss = float(step())
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.compiler.reset()
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss}")
    return figures | {"batch_size": count, "loss": loss}


def prepared(trainer: Trainer, batch: Batch, options: tuple[str, ...]) -> Callable[[], Any]:
    """Change a trainer according to the options; return a function that does its step and returns the loss."""
    kind, weights = torch.optim.AdamW, list(trainer.objective.trained())
    settings: dict[str, Any] = {"lr": 1e-4, "weight_decay": trainer.config.schedule.weight_decay}
    trainer.optimizer = kind(weights, fused=True, capturable="graph" in options, **settings)
    if "foreach" in options:
        trainer.optimizer = kind(weights, foreach=True, **settings)
    if "tf32" in options:
        torch.set_float32_matmul_precision("high")
    if "channels_last" in options:
        module: Any = trainer.objective
        module.to(memory_format=torch.channels_last)
    if "compile" in options:
        compile_blocks(trainer, "default")
    if "reduce-overhead" in options:
        compile_blocks(trainer, "reduce-overhead")
        return partial(_marked_step, trainer, batch)
    return captured(trainer, batch) if "graph" in options else partial(bare_step, trainer, batch)


def compile_blocks(trainer: Trainer, mode: str) -> None:
    """Compile each block for static shapes, except the teacher's last block, in which a hook ends the attention pass."""
    torch._dynamo.config.cache_size_limit = 64  # one entry for each block, shape and gradient mode
    encoders = trainer.objective.encoders()
    blocks = [*encoders["student"].backbone.blocks, *encoders["teacher"].backbone.blocks[:-1]]
    for block in blocks:
        block.compile(mode=mode, dynamic=False)


def captured(trainer: Trainer, batch: Batch) -> Callable[[], torch.Tensor]:
    """Return the whole step as one CUDA graph. The views still differ in each replay, because the generator is registered."""
    cuda: Any = torch.cuda  # untyped in parts
    stream = cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # tensors that are made only once must exist before the capture
        for _ in range(3):
            bare_step(trainer, batch)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(trainer.generator)
    with torch.cuda.graph(graph):
        loss = bare_step(trainer, batch)

    def replay() -> torch.Tensor:
        graph.replay()
        return loss

    return replay


def _marked_step(trainer: Trainer, batch: Batch) -> torch.Tensor:
    compiler: Any = torch.compiler  # untyped in parts
    compiler.cudagraph_mark_step_begin()
    return bare_step(trainer, batch).clone()
