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
from torch import Tensor

from benchmarks.gpu.parts import Task
from benchmarks.gpu.step import measured
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
SLOW = frozenset({"graph", "compile", "reduce-overhead"})
NEEDS_S = 30.0
"""Seconds that a variant needs at least: compiling takes about as long."""
torch_: Any = torch  # untyped in parts


def run(task: Task) -> None:
    """Measure every variant at the usual batch size, then the fastest variant at the larger sizes."""
    work, step_ms = Workload.of(task), {}
    for name, options in VARIANTS.items():
        is_slow = not SLOW.isdisjoint(options)
        if is_slow and work.device.type == "cpu":
            task.report(name, {"skipped": "a CPU has no CUDA graphs, and compiling takes it minutes"})
            continue
        figures = task.attempt(name, partial(variant, work, work.sizes[0], options), needs_s=NEEDS_S * is_slow)
        step_ms[name] = figures.get("step_ms", math.inf)
    fastest = min(step_ms, key=step_ms.__getitem__)
    for count in work.sizes[1:]:
        measure = partial(variant, work, count, VARIANTS[fastest])
        task.attempt(f"{fastest}, batch {count}", measure, needs_s=NEEDS_S * bool(VARIANTS[fastest]))


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


def prepared(trainer: Trainer, batch: Batch, options: tuple[str, ...]) -> Callable[[], Tensor]:
    """Change a trainer according to the options; return a function that does its step and returns the loss."""
    trainer.optimizer = torch.optim.AdamW(
        trainer.objective.trained(),
        lr=1e-4,
        weight_decay=trainer.config.schedule.weight_decay,
        foreach="foreach" in options,
        fused="foreach" not in options,
        capturable="graph" in options,
    )
    step = partial(bare_step, trainer, batch)
    if "tf32" in options:
        torch.set_float32_matmul_precision("high")
    if "channels_last" in options:
        module: Any = trainer.objective
        module.to(memory_format=torch.channels_last)
    if "compile" in options:
        compile_blocks(trainer, "default")
    if "reduce-overhead" in options:
        compile_blocks(trainer, "reduce-overhead")
        return partial(_marked, step)
    return captured(step, trainer.generator) if "graph" in options else step


def compile_blocks(trainer: Trainer, mode: str) -> None:
    """Compile each block for static shapes, except the teacher's last block, in which a hook ends the attention pass."""
    torch_._dynamo.config.cache_size_limit = 64  # one entry for each block, shape and gradient mode
    encoders = trainer.objective.encoders()
    for block in (*encoders["student"].backbone.blocks, *encoders["teacher"].backbone.blocks[:-1]):
        block.compile(mode=mode, dynamic=False)


def captured(step: Callable[[], Tensor], generator: torch.Generator) -> Callable[[], Tensor]:
    """Return the whole step as one CUDA graph. The views still differ in each replay, because the generator is registered."""
    stream = torch_.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # tensors that are made only once must exist before the capture
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


def _marked(step: Callable[[], Tensor]) -> Tensor:
    torch_.compiler.cudagraph_mark_step_begin()
    return step().clone()
