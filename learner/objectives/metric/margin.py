"""Margin contrastive loss: views of a pair come close, those of others are pushed beyond a margin (Hadsell et al. 2006, DrLIM).

With d the Euclidean distance of unit projections, 0 to 2 (in the paper of any length; a Siamese network, as Chopra et al. 2005):

    loss_i = mean over the pair's other views of d^2 / 2 + mean over the views of other pairs of max(0, margin - d)^2 / 2

and the mean over the views of the pair. The paper labels pairs of images; here the views of one pair are the like ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator

from learner.bounds import Count, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import UnitProjector
from learner.parts.losses import compared, distances, mean_where
from learner.parts.network import Network
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class MarginConfig(ObjectiveConfig):
    """The margin for unit vectors."""

    name = "margin"
    takes = SEVERAL
    presets = {"cpu": {"hidden": 256, "projection": 64}}

    hidden: Count = 2048
    """Width of the hidden layer of the projector."""
    projection: Count = 256
    """Width of a projection."""
    margin: Positive = 1.0
    """Distance beyond which another pair is no longer pushed; of unit vectors at right angles it is 1.41."""


class Margin(Objective[MarginConfig]):
    """One network and no other state."""

    meanings = {"too_near": Meaning("ratio", "Views of other pairs within the margin.")}

    def __init__(self, config: MarginConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, UnitProjector(encoder.dim, config.hidden, config.projection))
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the loss of each pair by the formula of this module."""
        features = self.views(batch, generator).through(self.student.encoder)
        rows = self.student.project(features)
        found = compared(rows, collectives.everyone(rows), collectives.number() * len(batch))
        apart = distances(found.cosines)
        pulled = mean_where(apart.square(), found.same)
        pushed = mean_where(F.relu(self.config.margin - apart).square(), found.others)
        near = mean_where((apart.detach() < self.config.margin).float(), found.others).mean()
        return Outcome((pulled + pushed).mean(1) / 2, features[:, 0], gauges={"too_near": near})
