"""SimCLR: each view of a pair has to find the other views of its pair among all views of the batch (Chen et al. 2020).

The loss is NT-Xent (section 2.1, equation 1), over the views of both eyes and in both directions.
`learner.parts.losses.nt_xent` has the formula.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator

from learner.bounds import Count, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import BatchNorm, mlp
from learner.parts.losses import nt_xent
from learner.parts.network import Network
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(ObjectiveConfig):
    """The numbers of the small published recipes (solo-learn's for CIFAR)."""

    name = "simclr"
    takes = SEVERAL
    presets = {"cpu": {"hidden": 256, "projection": 64}}

    hidden: Count = 2048
    """Width of the hidden layer of the projector."""
    projection: Count = 256
    """Width of a projection."""
    temperature: Positive = 0.2
    """Temperature of the softmax over the views of the batch."""


class SimCLR(Objective[SimCLRConfig]):
    """One network and no other state."""

    meanings = {
        "view_cosine": Meaning("", "Mean cosine between the first and the last view of a pair."),
    }
    shared_statistics = "the projector has a batch norm"

    def __init__(self, config: SimCLRConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, mlp(encoder.dim, config.hidden, config.projection, norm=BatchNorm))
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return NT-Xent of each pair; a batch of one pair has only its own views to tell apart."""
        features = self.views(batch, generator).through(self.student.encoder)
        projections = F.normalize(self.student.project(features), dim=-1)
        first = collectives.number() * len(batch)
        losses = nt_xent(projections, collectives.everyone(projections), first, self.config.temperature)
        cosines = (projections[:, 0] * projections[:, -1]).sum(-1).detach()
        return Outcome(losses, features[:, 0], gauges={"view_cosine": cosines.mean()})
