"""Every objective of the table and some sums, small, with batches and views for it: nothing here knows one of them alone."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor, nn

from learner.config import LearnerConfig, preset
from learner.distributed import collectives
from learner.memory.config import MemoryConfig
from learner.networks.encoder import EncoderConfig
from learner.objectives.contract import Batch, Objective, Outcome, Views
from learner.objectives.foreign import objective_named
from learner.objectives.table import OBJECTIVES
from learner.pacing import PacingConfig
from learner.schedule import ScheduleConfig
from learner.trainer import Trainer

ENCODER = EncoderConfig(backbone="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=32, depth=2, heads=2)
NAMES = (*OBJECTIVES, "ntxent+byol", "ijepa+mae")
"""Sums keep to the contract too: of two momentum copies, and of two that hide patches."""
COUNT = 6
CLIPS, LENGTH = 6, 6
"""Of the batches for objectives that learn from time: clips, and pairs in each."""
NUMBERS: dict[str, dict[str, Any]] = {"tct": {"near": 2.0, "far": 3.0}, "ccvae": {"beta": 0.0}}
"""Numbers that suit so short clips; and no embedding that is drawn, because what is drawn goes by the place in the batch."""
CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_pairs(count: int = COUNT, seed: int = 0) -> Batch:
    """Smooth random pairs of two devices in turn, the right eye the left one moved."""
    coarse = torch.rand(count, 3, 4, 5, generator=seeded(seed))
    left = (nn.functional.interpolate(coarse, (24, 32), mode="bilinear").permute(0, 2, 3, 1) * 255).to(torch.uint8)
    keys = torch.arange(count)
    return Batch(left, left.roll(2, dims=2), torch.full((count,), 4 / 3), seed * count + keys, keys % 2)


def some_clips(count: int = CLIPS * LENGTH, seed: int = 0) -> Batch:
    """Pairs of clips, each of an epoch of its own, in which one smooth random picture moves down and becomes brighter."""
    pairs = some_pairs(1 + count // LENGTH, seed)
    rows = torch.arange(count)
    clips, steps = rows // LENGTH, rows % LENGTH
    left = torch.stack(
        [pairs.left[clip].roll(step, 0) // 2 + 8 * step for clip, step in zip(clips, steps.tolist(), strict=True)]
    )
    return Batch(
        left,
        left.roll(2, dims=2),
        torch.full((count,), 4 / 3),
        seed * count + rows,
        rows % 2,
        clips,
        clips,
        steps.double(),
        {"action": torch.randn(count, 3, generator=seeded(seed)), "reward": steps[:, None] / LENGTH},
    )


def is_timed(name: str) -> bool:
    """Whether an objective learns from clips."""
    return objective_named(name).settings.clip > 1


def pairs_for(name: str, seed: int = 0, count: int | None = None) -> Batch:
    """A batch that the objective can use."""
    if is_timed(name):
        return some_clips(count or CLIPS * LENGTH, seed)
    return some_pairs(count or COUNT, seed)


def small(name: str, **changes: Any) -> LearnerConfig:
    """The settings of an objective at the size `cpu`, with a tiny encoder."""
    chosen = preset("cpu", objective_named(name))
    clip = chosen.memory.clip
    changes = {"objective": dataclasses.replace(chosen.objective, **NUMBERS.get(name, {})), **changes}
    return dataclasses.replace(
        chosen,
        encoder=ENCODER,
        memory=MemoryConfig(capacity=24, fresh_capacity=16, canvas=(24, 32), clip=clip),
        pacing=PacingConfig(replay_ratio=4.0, batch_size=max(COUNT, clip)),
        schedule=ScheduleConfig(learning_rate=1e-3, warmup_steps=2),
        **changes,
    )


def trainer(name: str, seed: int = 0, **changes: Any) -> Trainer:
    """With networks past their random start, so that no term is trivial: they differ, and tell images apart."""
    made = Trainer(small(name, seed=seed, **changes), CPU)
    generator = seeded(seed + 1)
    with torch.no_grad():
        for weight in made.objective.parameters():
            if weight.ndim > 1:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return made


def total(outcome: Outcome) -> Tensor:
    return outcome.losses.mean() + (0.0 if outcome.shared is None else outcome.shared)


Rows = TypeVar("Rows", Views, Batch)


def selected(some: Rows, rows: Tensor) -> Rows:
    """Some pairs of a batch, or their views."""
    return type(some)(*(_rows_of(getattr(some, field.name), rows) for field in dataclasses.fields(some)))


def _rows_of(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Mapping):
        return {name: one[rows] for name, one in value.items()}
    return None if value is None else value[rows]


def see(objective: Objective[Any], views: Views) -> None:
    """Let the objective see these views, whatever the batch is."""
    objective.views = lambda _batch, _generator: views


def as_double(values: Tensor) -> Tensor:
    """In place of `float()`, by which an objective says what is not computed in bfloat16."""
    return values.double()


def exact(views: Views) -> Views:
    """The same views in float64."""
    fields = [getattr(views, field.name) for field in dataclasses.fields(views)]
    return type(views)(*(field.double() if field.is_floating_point() else field for field in fields))


def part_of_a_step(name: str) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
    """Losses, shared term, gradient and gauges of this process's part of one batch; the last two are of the whole batch.

    They are computed in float64: where an objective sorts, the rounding of float32 may decide the order, and so the gradient.
    """
    made, batch = trainer(name), pairs_for(name)
    rows = collectives.own_rows(torch.arange(len(batch)))
    views = selected(made.objective.views(batch, seeded()), rows)
    made.objective.double()
    see(made.objective, exact(views))
    with mock.patch.object(Tensor, "float", as_double):
        outcome = made.outcome(selected(batch, rows), seeded())
    torch.autograd.backward(total(outcome))
    gradients = [weight.grad for weight in made.objective.trained() if weight.grad is not None]
    collectives.average_([*gradients, *outcome.gauges.values()])
    gauges = {key: float(value) for key, value in outcome.gauges.items()}
    shared = torch.zeros(()) if outcome.shared is None else outcome.shared.detach()
    return outcome.losses.detach(), shared, torch.cat([one.flatten() for one in gradients]), gauges


def born(number: int, count: int, folder: str) -> int:
    """Start one of several processes, which leaves what it comes to in the folder."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=count)
        torch.save({name: part_of_a_step(name) for name in NAMES}, f"{folder}/{number}")
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":  # how many processes, and the folder for what they come to; repeated
    torch.set_num_threads(1)
    for processes, where in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        pids = [born(number, int(processes), where) for number in range(int(processes))]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert not any(codes), codes
