"""SimSiam: a predictor guesses what the same network says of another view of the pair (Chen and He 2021).

With p the unit prediction of one view, z the unit projection of a large view, without gradient (section 3, equations 1 to 4):

    loss = mean over views v and large views g != v of |p_v - stopgrad(z_g)|^2 / 2 = 1 - cos(p_v, z_g)

which is the published loss plus 1. Only predictor and stopped gradient prevent collapse; the guard watches the features. The
reference has projector 2048-2048-2048, predictor 512-2048, SGD, and a rate of the predictor that does not decay, as here nothing
does. It has batch norms where there are layer norms here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, nn

from learner.bounds import Count, Positive
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import mlp
from learner.parts.losses import between_views
from learner.parts.network import Network
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class SimSiamConfig(ObjectiveConfig):
    """The published widths; smaller ones for a CPU."""

    name = "simsiam"
    takes = SEVERAL
    presets = {"cpu": {"hidden": 256, "projection": 256, "bottleneck": 64}}

    hidden: Count = 2048
    """Width of the hidden layers of the projector."""
    projection: Count = 2048
    """Width of a projection."""
    bottleneck: Count = 512
    """Width of the hidden layer of the predictor."""
    predictor_rate: Positive = 1.0
    """Factor of the learning rate of the predictor."""


class SimSiam(Objective[SimSiamConfig]):
    """The network and its predictor, and no other state."""

    def __init__(self, config: SimSiamConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, mlp(encoder.dim, config.hidden, config.hidden, config.projection))
        self.predictor = mlp(config.projection, config.bottleneck, config.projection)
        self.views = kit.views(encoder)

    def rate_factors(self) -> dict[nn.Module, float]:
        """See Objective."""
        return {self.predictor: self.config.predictor_rate}

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return 1 minus the mean cosine of each pair's predictions and projections, 0 to 2."""
        views = self.views(batch, generator)
        features = views.through(self.student.encoder)
        projections = self.student.project(features)
        with torch.autocast(features.device.type, enabled=False):
            guesses = F.normalize(self.predictor(projections), dim=-1)
        targets = F.normalize(projections[:, : views.large.shape[1]].detach(), dim=-1)
        return Outcome(between_views((guesses[:, :, None] - targets[:, None]).square().sum(-1) / 2), features[:, 0])
