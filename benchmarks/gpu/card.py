"""The upper limits of a card: its name, the rates of the datasheet, and two limits measured here (computing and memory)."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmarks.step.bare import Step, timed

BFLOAT16_TFLOPS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "GH200": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "Orin": 42,
}
"""Dense rates of the tensor cores with float32 sums, from the makers' datasheets; the first name that matches is used."""


def ceilings(device: torch.device, size: int) -> dict[str, Any]:
    """Measure a product of two random matrices [size, size] in bfloat16, and a copy of memory that is larger than any cache.

    peak_flops: the peak that shares refer to: the datasheet's rate, or the measured rate of an unknown card.
    """
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    product_s = _median_s(lambda: left @ right, device)
    source = torch.empty(16 * size * size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    copy_s = _median_s(lambda: target.copy_(source), device)
    measured = 2 * size**3 / product_s / 1e12
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    known = next((rate for word, rate in BFLOAT16_TFLOPS.items() if word in name), None)
    return {
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "memory_gib": torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else None,
        "datasheet_bfloat16_tflops": known,
        "measured_bfloat16_tflops": measured,
        "peak_flops": 1e12 * (measured if known is None else known),
        "copy_gb_per_s": 2 * source.nbytes / copy_s / 1e9,
    }


def _median_s(run: Step, device: torch.device) -> float:
    """Return the median seconds of a run, after two runs that are not counted."""
    return statistics.median([timed(run, device, 1) for _ in range(9)][2:])
