"""LeJEPA: the views of a pair agree, and each view of the batch is spread like a standard normal (Balestriero and LeCun 2025).

With z_v the projections of view v, m their mean over the views, D columns, and a the random directions (sections 4 and 5):

    loss_i = (1 - weight) * mean_v |z_iv - m_i|^2 / D
    shared = weight * mean_v mean_a T(z_v a), which is SIGReg, with the statistic of Epps and Pulley
    T(x) = B * integral of |mean_n exp(i t x_n) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt, over B pairs

SIGReg is that of the authors' code (rbalestr-lab/lejepa at eddffdd): a trapezoid of 17 knots in [0, 3], doubled by symmetry.
Their recipe: V = 4 views, weight 0.02, projector 2048-2048-16 with batch norms, 256 directions (1024 in their README), AdamW at
2e-3 for 256 images. As T grows with B, the weight counts more in a larger batch.
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
class LeJEPAConfig(ObjectiveConfig):
    """The authors' numbers; fewer directions for a CPU."""

    name = "lejepa"
    takes = MULTI_FIRST
    presets = {"cpu": {"hidden": 256, "directions": 256}}

    hidden: Count = 2048
    """Width of the hidden layers of the projector."""
    projection: Count = 16
    """D, the width of a projection."""
    directions: Count = 1024
    """Random directions along which the batch is compared with a normal distribution, new ones in each step."""
    weight: Share = 0.02
    """Share of that term in the loss."""


class LeJEPA(Objective[LeJEPAConfig]):
    """One network and no other state."""

    shared_statistics = "the projector has a batch norm"
    meanings = {"sigreg": Meaning("", "Distance of a view's batch from a normal one.")}

    def __init__(self, config: LeJEPAConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder, widths = kit.encoder(), (config.hidden, config.hidden, config.projection)
        self.student = Network(encoder, mlp(encoder.dim, *widths, norm=BatchNorm))
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the invariance of each pair, and SIGReg as the shared term."""
        features = self.views(batch, generator).through(self.student.encoder)
        rows, weight = self.student.project(features), self.config.weight
        spread = sigreg(rows, directions(rows.shape[-1], self.config.directions, generator, like=rows))
        losses = (1 - weight) * (rows - rows.mean(1, keepdim=True)).square().mean((1, 2))
        return Outcome(losses, features[:, 0], shared=weight * spread, gauges={"sigreg": spread.detach()})


def sigreg(rows: Tensor, directions: Tensor) -> Tensor:
    """Return the mean of T over views and directions, a scalar; rows: [B, V, D] of this process; directions: [D, S]."""
    t = torch.linspace(0, 3, 17, device=rows.device, dtype=rows.dtype)
    normal = (-t.square() / 2).exp()
    with torch.autocast(rows.device.type, enabled=False):
        turned = (rows @ directions)[..., None] * t
    found = collectives.shared_mean(torch.stack([turned.cos().mean(0), turned.sin().mean(0)]))
    errors = (found[0] - normal).square() + found[1].square()
    return collectives.count() * len(rows) * 2 * torch.trapezoid(errors * normal, t, dim=-1).mean()
