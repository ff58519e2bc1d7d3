"""VISReg: the views of a pair agree, and each view of the batch has mean 0, variance 1 and a normal shape (Wu et al. 2026).

With z_v the projections of view v, m their mean over the large views, D columns, mu and s mean and deviation over the B pairs,
a the random directions, and q_n = Phi^-1(n / (B + 1)) the quantiles of the normal distribution:

    loss_i = (1 - weight) * mean_v |z_iv - m_i|^2 / D
    shared = weight * mean_v (mean mu^2 + mean (s - 1)^2 + mean_a mean_n (sorted((z_v - mu) / stopgrad(s) a)_n - q_n)^2)

as in stable-pretraining (`methods/visreg.py`, 9aa93f8b): weight 0.02 and 256 directions by default, 0.6 and 1024 in its
benchmark and here; projector 512-2048-2048-512 with batch norms (a layer less here), AdamW at 1e-3. Batches need some dozens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from learner.bounds import Count, Share
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import BatchNorm, mlp
from learner.parts.losses import directions
from learner.parts.network import Network
from learner.views.several import MULTI_FIRST


@dataclass(frozen=True, kw_only=True)
class VISRegConfig(ObjectiveConfig):
    """The numbers of the published benchmark; smaller ones for a CPU."""

    name = "visreg"
    takes = MULTI_FIRST
    presets = {"cpu": {"hidden": 256, "projection": 64, "directions": 256}}

    hidden: Count = 2048
    """Width of the hidden layers of the projector."""
    projection: Count = 512
    """D, the width of a projection."""
    directions: Count = 1024
    """Random directions along which the batch is compared with a normal distribution, new ones in each step."""
    weight: Share = 0.6
    """Share of the terms of the batch in the loss."""


class VISReg(Objective[VISRegConfig]):
    """One network and no other state."""

    shared_statistics = "the projector has a batch norm"
    meanings = {"visreg": Meaning("", "Distance of a view's batch from a normal one.")}

    def __init__(self, config: VISRegConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder, widths = kit.encoder(), (config.hidden, config.hidden, config.projection)
        self.student = Network(encoder, mlp(encoder.dim, *widths, norm=BatchNorm))
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the invariance of each pair, and the terms of the batch as the shared one."""
        views, weight = self.views(batch, generator), self.config.weight
        features = views.through(self.student.encoder)
        rows = self.student.project(features)
        slices = directions(rows.shape[-1], self.config.directions, generator, like=rows)
        spread = visreg(collectives.everyone(rows), slices)
        losses = (1 - weight) * (rows - rows[:, : views.large.shape[1]].mean(1, keepdim=True)).square().mean((1, 2))
        return Outcome(losses, features[:, 0], shared=weight * spread, gauges={"visreg": spread.detach()})


def visreg(rows: Tensor, directions: Tensor) -> Tensor:
    """Return the three terms, a scalar; rows: [B, V, D] of all processes; directions: [D, S]."""
    mean = rows.mean(0)
    deviation: Tensor = torch.linalg.vector_norm(rows - mean, dim=0) / len(rows) ** 0.5 + 1e-6
    with torch.autocast(rows.device.type, enabled=False):
        found = (((rows - mean) / deviation.detach()) @ directions).sort(dim=0).values
    ranks = torch.arange(1, len(rows) + 1, device=rows.device, dtype=rows.dtype) / (len(rows) + 1)
    shape: Tensor = (found - torch.special.ndtri(ranks)[:, None, None]).square().mean()
    return shape + mean.square().mean() + (deviation - 1).square().mean()
