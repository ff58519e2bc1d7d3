"""BYOL: a predictor guesses what a momentum copy says of another view of the pair; there are no negatives (Grill et al. 2020).

With p the unit prediction of one view by the student, z the unit projection of a large view by the copy (section 3.1):

    loss = mean over views v and large views g != v of |p_v - z_g|^2 = 2 - 2 cos(p_v, z_g)

Only predictor and copy prevent collapse; the guard watches the features. Projector and predictor have layer norms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, nn

from learner.bounds import Count, Momentum, Positive
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import mlp
from learner.parts.losses import between_views
from learner.parts.network import Ema, Network
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class BYOLConfig(ObjectiveConfig):
    """The published widths; the momentum is constant, because a stream has no end to raise it to."""

    name = "byol"
    takes = SEVERAL
    presets = {"cpu": {"hidden": 256, "projection": 64, "momentum": 0.99}}

    hidden: Count = 4096
    """Width of the hidden layers of projector and predictor."""
    projection: Count = 256
    """Width of a projection."""
    momentum: Momentum = 0.996
    """Of the copy that makes the targets, after each step."""
    predictor_rate: Positive = 1.0
    """Factor of the learning rate of the predictor."""


class BYOL(Objective[BYOLConfig]):
    """The student with its predictor, and the copy that it guesses."""

    def __init__(self, config: BYOLConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, mlp(encoder.dim, config.hidden, config.projection))
        self.predictor = mlp(config.projection, config.hidden, config.projection)
        self.teacher = Ema(self.student, config.momentum)
        self.views = kit.views(self.teacher.encoder)

    def rate_factors(self) -> dict[nn.Module, float]:
        """See Objective."""
        return {self.predictor: self.config.predictor_rate}

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the mean squared distance of each pair's predictions and targets, 0 to 4."""
        views = self.views(batch, generator)
        features = views.through(self.student.encoder)
        with torch.autocast(features.device.type, enabled=False):
            guesses = F.normalize(self.predictor(self.student.project(features)), dim=-1)
        targets = F.normalize(views.only_large.through(self.teacher), dim=-1)
        distances = (guesses[:, :, None] - targets[:, None]).square().sum(-1)
        return Outcome(between_views(distances), features[:, 0])
