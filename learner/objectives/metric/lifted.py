"""Lifted structure: each two views of a pair are nearer than the nearest views of all other pairs (Oh Song et al. 2016).

With d the Euclidean distance of projections of any length, and N(v) the views of all other pairs (the smooth form):

    J_vw = log( sum_{k in N(v)} exp(margin - d_vk) + sum_{k in N(w)} exp(margin - d_wk) ) + d_vw
    loss_i = mean over pairs of views v != w of max(0, J_vw)^2 / 2

The paper has labelled classes; here a pair is a class of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator

from learner.bounds import Count, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import mlp
from learner.parts.losses import between_views, compared
from learner.parts.network import Network
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class LiftedConfig(ObjectiveConfig):
    """The published margin."""

    name = "lifted"
    takes = SEVERAL
    presets = {"cpu": {"hidden": 256, "projection": 64}}

    hidden: Count = 2048
    """Width of the hidden layer of the projector."""
    projection: Count = 256
    """Width of a projection."""
    margin: Positive = 1.0
    """alpha in the paper."""


class Lifted(Objective[LiftedConfig]):
    """One network and no other state."""

    def __init__(self, config: LiftedConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, mlp(encoder.dim, config.hidden, config.projection))
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the loss of each pair; that of a batch of one pair is 0."""
        features = self.views(batch, generator).through(self.student.encoder)
        rows = self.student.project(features)
        everyones = collectives.everyone(rows)
        others = compared(rows, everyones, collectives.number() * len(batch)).others
        wrong = (self.config.margin - torch.cdist(rows, everyones.flatten(0, 1).nan_to_num())).where(others, -torch.inf)
        least = wrong.logsumexp(-1)
        raised = torch.logaddexp(least[:, :, None], least[:, None]) + torch.cdist(rows, rows)
        return Outcome(between_views(F.relu(raised).square() / 2), features[:, 0])
