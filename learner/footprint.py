"""Find out before a run begins whether a batch fits into memory: forward passes on a few pairs show what each pair needs."""

from __future__ import annotations

import torch
from torch import Tensor

from learner.distributed import collectives
from learner.errors import SettingsError
from learner.objectives.contract import Batch
from learner.trainer import Trainer
from stream.host.memory import available_bytes
from stream.signals.signal import MAX_WIDTH

PAIRS = 2
"""The smallest batch, and what a larger one has more."""
PEAK_PER_SAVED = 1.25
"""Bytes that a step needs at its peak for each byte kept for the backward pass; 1.03 to 1.17 were measured (docs/log.md)."""
MOMENTS_AND_GRADIENT = 3
"""Copies of the trained weights that AdamW and the backward pass make."""


def require_room(trainer: Trainer, slot_bytes: int, free_bytes: int) -> None:
    """Raise SettingsError, naming the largest batch that fits, where a step does not fit into `free_bytes`.

    slot_bytes: of open clips, of the slots of memory and of those held out once they are filled; all are in RAM whatever the
    device is.
    Call it before the first step, while neither they nor the optimiser take any room. Several processes call it
    together, each for its part of the batch and with its own `free_bytes`.
    """
    batch_size = trainer.config.pacing.batch_size
    left_bytes = free_bytes - _fixed_bytes(trainer, slot_bytes)
    fits = collectives.count() * int(left_bytes // (PEAK_PER_SAVED * pair_bytes(trainer)))
    if batch_size <= fits:
        return
    unit = 8 * collectives.count()
    if fits > unit:
        fits -= fits % unit
    advice = f"lower --pacing.batch-size to {fits}"
    if fits < PAIRS:
        advice = "none fits: take a smaller --encoder or smaller crops"
    raise SettingsError(
        f"{trainer.device} has {free_bytes / 2**30:.1f} GiB free, too little for a batch of {batch_size} pairs: {advice}"
    )


def pair_bytes(trainer: Trainer) -> int:
    """Return the bytes that a step keeps of one pair from forward to backward, and those of the pair itself."""
    height, width = trainer.config.memory.canvas
    as_bytes = height * width * 3
    as_floats = 4 * as_bytes  # of one eye at a time
    few = _few(trainer)
    return (kept_bytes(trainer, 2 * few) - kept_bytes(trainer, few)) // few + 2 * as_bytes + as_floats


def kept_bytes(trainer: Trainer, pairs: int) -> int:
    """Return the bytes that a step on so many pairs, in whole clips, keeps from forward to backward, weights apart."""
    memory = trainer.config.memory
    height, width = memory.canvas
    image = torch.zeros(pairs, height, width, 3, dtype=torch.uint8, device=trainer.device)
    rows = torch.arange(pairs, device=trainer.device)
    batch = Batch(
        image,
        image.clone(),
        torch.full((pairs,), width / height, device=trainer.device),
        clips=rows // memory.clip,
        epochs=torch.zeros_like(rows),
        times_s=rows.double(),
        signals={
            name: torch.zeros(pairs, MAX_WIDTH, device=trainer.device) for name in trainer.config.objective.signals
        },
    )
    kept = {weight.untyped_storage().data_ptr(): 0 for weight in trainer.objective.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.outcome(batch, torch.Generator(trainer.device).manual_seed(0))
    return sum(kept.values())


def _few(trainer: Trainer) -> int:
    """Return the pairs of the smallest batch that is measured, in whole clips."""
    return max(PAIRS, trainer.config.memory.clip)


def free_bytes(device: torch.device) -> int:
    """Return the memory that a process can still get there."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return available_bytes()


def _fixed_bytes(trainer: Trainer, slot_bytes: int) -> int:
    """Return what a learner needs for any batch size: moments and gradient, terms of the batch and, on the CPU, slots."""
    trained = sum(weight.nbytes for weight in trainer.objective.trained())
    slots = slot_bytes if trainer.device.type == "cpu" else 0
    few = _few(trainer)
    whole = 2 * kept_bytes(trainer, few) - kept_bytes(trainer, 2 * few)
    return MOMENTS_AND_GRADIENT * trained + slots + max(0, whole)
