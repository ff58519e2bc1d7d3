"""Multi-class N-pair loss: a view is more like another view of its pair than like that of any other pair (Sohn 2016).

With f_iv the projection of view v of pair i, of any length:

    loss_i = mean over pairs of views v != w of -log( exp(f_iv f_iw) / sum_j exp(f_iv f_jw) ) + weight * mean_v |f_iv|^2

The negatives of a view are one view of each other pair, the same w for all, as the paper builds its batches. The weight is from
TensorFlow's `npairs_loss`, which has half of that term.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from learner.bounds import Count, NotNegative
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import mlp
from learner.parts.losses import between_views
from learner.parts.network import Network
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class NPairConfig(ObjectiveConfig):
    """The weight that TensorFlow has by default."""

    name = "npair"
    takes = SEVERAL
    presets = {"cpu": {"hidden": 256, "projection": 64}}

    hidden: Count = 2048
    """Width of the hidden layer of the projector."""
    projection: Count = 256
    """Width of a projection."""
    weight: NotNegative = 0.002
    """Of the squared lengths, which keep the products small."""


class NPair(Objective[NPairConfig]):
    """One network and no other state."""

    meanings = {"length": Meaning("", "Mean length of a projection.")}

    def __init__(self, config: NPairConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, mlp(encoder.dim, config.hidden, config.projection))
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the loss of each pair by the formula of this module."""
        features = self.views(batch, generator).through(self.student.encoder)
        rows = self.student.project(features)
        everyones = collectives.everyone(rows)
        broken = ~everyones.isfinite().all(-1).all(-1)
        with torch.autocast(rows.device.type, enabled=False):
            products = torch.einsum("ivd,jwd->ivwj", rows, everyones.nan_to_num(0.0, 0.0, 0.0))
        shares = products.masked_fill(broken, -torch.inf).log_softmax(-1)
        own = collectives.own_rows(torch.arange(len(everyones), device=rows.device))
        terms = -shares.gather(-1, own[:, None, None, None].expand(*shares.shape[:3], 1))[..., 0]
        squares = rows.square().sum(-1).mean(1)
        gauges = {"length": rows.detach().norm(dim=-1).mean()}
        return Outcome(between_views(terms) + self.config.weight * squares, features[:, 0], gauges=gauges)
