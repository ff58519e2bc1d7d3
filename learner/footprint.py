"""Whether a batch fits into memory, asked before a run begins: one forward pass on two pairs tells what each pair takes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from learner.distributed import collectives
from learner.errors import SettingsError
from learner.loop import Learner
from learner.objectives.contract import Batch

PAIRS = 2
"""As few as a batch may have."""
BESIDE_SAVED = 1.25
"""What a step takes at its peak for each byte kept for the backward pass; 1.03 to 1.17 were measured (docs/log.md)."""
MOMENTS_AND_GRADIENT = 3
"""Copies of the trained weights that AdamW and the backward pass make."""


def require_room(learner: Learner, free_bytes: int) -> None:
    """Raise SettingsError with the batch size that would fit where the learner's does not fit into `free_bytes`.

    To be called before the first step: until then neither memory's slots nor the optimiser have taken their room. Of several
    processes each is asked for its share of the batch, in step and with as many bytes.
    """
    batch_size = learner.config.pacing.batch_size
    fits = collectives.count() * int((free_bytes - _fixed_bytes(learner)) // (BESIDE_SAVED * pair_bytes(learner)))
    if batch_size <= fits:
        return
    fits -= fits % (8 * collectives.count()) if fits > 8 * collectives.count() else 0
    advice = (
        f"lower --pacing.batch-size to {fits}"
        if fits >= PAIRS
        else "none fits: take a smaller --encoder or smaller crops"
    )
    raise SettingsError(
        f"{learner.device} has {free_bytes / 2**30:.1f} GiB free, too little for a batch of {batch_size} pairs: {advice}"
    )


def pair_bytes(learner: Learner) -> int:
    """What a step keeps of one pair from forward to backward, and the pair itself."""
    height, width = learner.config.memory.canvas
    image = torch.zeros(PAIRS, height, width, 3, dtype=torch.uint8, device=learner.device)
    batch = Batch(image, image.clone(), torch.full((PAIRS,), width / height, device=learner.device))
    kept = {weight.untyped_storage().data_ptr(): 0 for weight in learner.objective.trained()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    generator = torch.Generator(learner.device).manual_seed(0)
    low = learner.config.precision == "bfloat16"
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast(learner.device.type, torch.bfloat16, enabled=low),
    ):
        losses = learner.objective(batch, generator).losses
    del losses
    as_floats = height * width * 3 * 4
    return sum(kept.values()) // PAIRS + 2 * height * width * 3 + as_floats


def free_bytes(device: torch.device) -> int:
    """Memory that a process can still have there."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def _fixed_bytes(learner: Learner) -> int:
    """What a learner takes whatever its batch: moments and gradient, and on the CPU the slots, which are not filled yet."""
    trained = sum(weight.nbytes for weight in learner.objective.trained())
    slots = learner.memory.left.nbytes + learner.memory.right.nbytes if learner.device.type == "cpu" else 0
    return MOMENTS_AND_GRADIENT * trained + slots
