"""What does a training step cost? Pairs per second, the share of the GPU's peak, memory, and where the time goes.

The reference DINO loop and lightly's (`benchmarks.step.peers`) take turns with ours, with the same backbone and crops. There are
two ratios. From ready views, only networks and optimiser are compared. From images, a peer makes its views on all cores while its
step runs, and only the longer of the two counts: no data loader can be faster.
"""

from __future__ import annotations

import importlib.util
import math
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.parts import Task
from benchmarks.gpu.pictures import CORES
from benchmarks.gpu.workload import Workload
from benchmarks.step.bare import Step, bare_step, images_of, step_from, timed
from benchmarks.step.peers import PEERS

ROUNDS = 7
PROFILED = 3
"""Number of profiled steps."""
TOP = 15
NAME = 100
"""Number of characters of a kernel's name that are kept: its template arguments can fill a page."""
BFLOAT16_TFLOPS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "Orin": 42,
}
"""Dense rates of the tensor cores with float32 sums, from the makers' datasheets; the first name that matches is used."""
KINDS = {
    "attention": r"flash|fmha|attention|sdp",
    "sampling of crops": r"grid_sample|upsample|interpolate",
    "convolution": r"conv|fprop|dgrad|wgrad|cudnn",
    "matrix products": r"gemm|nvjet|cutlass|matmul|mm\b|addmm|bmm|linear|cublas",
    "normalisation": r"layer_?norm|GammaBeta",
    "softmax": r"softmax",
    "optimiser": r"adam|multi_tensor|foreach|lerp",
    "reductions": r"reduce|sum|norm|mean",
    "copies": r"memcpy|memset|copy|cat",
    "element by element": r"elementwise|vectorized|gelu|add|mul|div|where|clamp",
}
"""Patterns in the names of kernels and operators, and their kinds; the first pattern that matches is used."""


def run(task: Task) -> None:
    """Measure the GPU, then our step at each batch size, then the profile, and the peers."""
    start = Workload.of(task)
    task.attempt("card", partial(ceilings, start.device, 8192 if task.is_full else 256))
    task.attempt("flops", partial(flops_of, start))
    work = Workload.of(task)  # now the limits of the card are known
    for count in work.sizes:
        task.attempt(f"batch {count}", partial(bare, work, count))
    task.attempt("with checks", partial(with_checks, work))
    task.attempt("profile", partial(where_time_goes, work))
    for name in PEERS:
        if name == "lightly" and importlib.util.find_spec("lightly") is None:
            task.report(name, {"skipped": "lightly is not installed"})
        else:
            task.attempt(name, partial(against, name, work))


def ceilings(device: torch.device, size: int) -> dict[str, Any]:
    """Measure a product of two random matrices [size, size] in bfloat16, and a copy of memory that is larger than any cache.

    peak_flops: the peak that shares refer to: the datasheet's rate, or the measured rate of an unknown card.
    """
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    source = torch.empty(16 * size * size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    # The first two rounds are not counted: an idle GPU needs some time to reach its clock.
    product_s, copy_s = (
        statistics.median([timed(run, device, 10) for _ in range(ROUNDS + 2)][2:])
        for run in (lambda: left @ right, lambda: target.copy_(source))
    )
    measured = 2 * size**3 / product_s / 1e12
    is_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_cuda else "cpu"
    known = next((rate for word, rate in BFLOAT16_TFLOPS.items() if word in name), None)
    return {
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "memory_gib": torch.cuda.get_device_properties(device).total_memory / 2**30 if is_cuda else None,
        "datasheet_bfloat16_tflops": known,
        "measured_bfloat16_tflops": measured,
        "peak_flops": 1e12 * (measured if known is None else known),
        "copy_gb_per_s": 2 * source.nbytes / copy_s / 1e9,
    }


def flops_of(work: Workload, count: int = 4) -> dict[str, float]:
    """Return the floating-point operations of a step for each pair, as PyTorch counts them.

    It counts products, convolutions and attention.
    """
    with FlopCounterMode(display=False) as counter:
        bare_step(*work.start(count))
    return {"of_a_pair": counter.get_total_flops() / count}


def bare(work: Workload, count: int) -> dict[str, Any]:
    """Measure the bare step: views, networks, optimiser and EMA, without reading any number back."""
    return measured(partial(bare_step, *work.start(count)), work, count)


def with_checks(work: Workload) -> dict[str, Any]:
    """Measure the learner's own step, which checks the losses before the weights change, and reads the gauges."""
    trainer, batch = work.start(work.sizes[0])
    return measured(partial(trainer.step, batch), work, len(batch))


def measured(step: Step, work: Workload, count: int) -> dict[str, Any]:
    """Return the time of the first step, which may compile, and the pace and peak memory of the later ones.

    The pace is the median over rounds of a few steps; the spread is from the fastest to the slowest round. The memory is all that
    PyTorch has reserved, because the memory of a CUDA graph belongs to no tensor.
    """
    device, is_cuda = work.device, work.device.type == "cuda"
    if is_cuda:
        torch.cuda.empty_cache()  # free what the last measurement has left
        torch.cuda.reset_peak_memory_stats(device)
    first_s = timed(step, device, 1)
    timed(step, device, 3)
    steps = max(1, min(20, math.ceil(work.round_s / timed(step, device, 1))))
    found = [timed(step, device, steps) for _ in range(ROUNDS)]
    pace = count / statistics.median(found)
    return {
        "pairs_per_s": pace,
        "step_ms": 1e3 * statistics.median(found),
        "spread_ms": [1e3 * min(found), 1e3 * max(found)],
        "share_of_peak": pace * work.flops / work.peak_flops,
        "first_step_s": first_s,
        "peak_gib": torch.cuda.max_memory_reserved(device) / 2**30 if is_cuda else None,
    }


def against(name: str, work: Workload) -> dict[str, Any]:
    """Measure a peer and our step in turns; return the ratios, above 1 if ours is faster.

    A ratio is taken within a round; the median over the rounds is returned.
    """
    trainer, batch = work.start(work.sizes[0])
    peer, device = PEERS[name](work.config, work.device), work.device
    images = images_of(batch.left), images_of(batch.right)
    began_s = time.perf_counter()
    views = peer.views(*images)
    views_s = (time.perf_counter() - began_s) / CORES
    seen = trainer.objective.views(batch, trainer.generator)
    rows: dict[str, Callable[[], object]] = {
        "ours": partial(bare_step, trainer, batch),
        "ours_from_views": partial(step_from, trainer, batch, seen),
        "theirs": partial(peer.step, views),
    }
    for row in rows.values():
        timed(row, device, 3)
    rounds = [{row: timed(step, device, 3) for row, step in rows.items()} for _ in range(ROUNDS)]
    return {
        "step_ms": {row: 1e3 * statistics.median(each[row] for each in rounds) for row in rows},
        "their_views_ms_on_all_cores": 1e3 * views_s,
        "speedup": statistics.median(max(each["theirs"], views_s) / each["ours"] for each in rounds),
        "speedup_from_views": statistics.median(each["theirs"] / each["ours_from_views"] for each in rounds),
    }


def where_time_goes(work: Workload) -> dict[str, Any]:
    """Return the kernels (on a CPU: operators) that take most of a step, the sums by kind, and the device's busy share."""
    step, is_cuda = partial(bare_step, *work.start(work.sizes[0])), work.device.type == "cuda"
    timed(step, work.device, 3)
    step_s = timed(step, work.device, 5)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]) as profiler:
        timed(step, work.device, PROFILED)
    kind = DeviceType.CUDA if is_cuda else DeviceType.CPU
    spent_ms, calls = defaultdict[str, float](float), 0
    for event in profiler.key_averages():
        if event.device_type == kind and not event.is_user_annotation:
            spent_ms[event.key] += (
                (event.self_device_time_total if is_cuda else event.self_cpu_time_total) / 1e3 / PROFILED
            )
            calls += event.count
    return {
        "step_ms": 1e3 * step_s,
        "busy_share": sum(spent_ms.values()) / (1e3 * step_s),
        "kernels_a_step": calls / PROFILED,
        "by_kind_ms": by_kind(spent_ms),
        "top_ms": [[name[:NAME], spent] for name, spent in longest_first(spent_ms)[:TOP]],
    }


def by_kind(spent: Mapping[str, float]) -> dict[str, float]:
    """Sum the time of kernels by kind, the longest first."""
    sums = defaultdict[str, float](float)
    for name, one in spent.items():
        kinds = (kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE))
        sums[next(kinds, "other")] += one
    return dict(longest_first(sums))


def longest_first(spent: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return names and times, the longest time first."""
    return sorted(spent.items(), key=lambda item: -item[1])
