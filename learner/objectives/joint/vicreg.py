"""VICReg: the views of a pair agree, each column varies over the batch, and no two columns are alike (Bardes et al. 2022).

With z_v the projections of view v, D columns (section 4.1; the reference divides the hinge by the number of views):

    loss_i = invariance * mean over pairs of views of |z_iv - z_iw|^2 / D
    shared = variance * mean_v hinge(z_v) + covariance * 2 * mean_v squared_covariances(z_v) / D
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import ExpanderConfig
from learner.parts.losses import apart_in_pairs, covariance, variance_hinge
from learner.parts.network import Network
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class VICRegConfig(ExpanderConfig, ObjectiveConfig):
    """The published weights."""

    name = "vicreg"
    takes = SEVERAL
    presets = {"cpu": {"hidden": 256, "projection": 256}}


class VICReg(Objective[VICRegConfig]):
    """One network and no other state."""

    meanings = {
        "variance": Meaning("", "What the standard deviations of the projections lack to 1, 0 where nothing."),
        "covariance": Meaning("", "Squared covariances between the columns of the projections."),
    }

    def __init__(self, config: VICRegConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student, self.views = Network(encoder, config.expander(encoder.dim)), kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the invariance of each pair, and the two terms of the batch as the shared one."""
        features = self.views(batch, generator).through(self.student.encoder)
        projections, weights = self.student.project(features), self.config
        losses = weights.invariance * apart_in_pairs(projections)
        everyones = collectives.everyone(projections).unbind(1)
        variance = torch.stack([variance_hinge(rows) for rows in everyones]).mean()
        repeated = 2 * torch.stack([covariance(rows) for rows in everyones]).mean()
        gauges = {"variance": variance.detach(), "covariance": repeated.detach()}
        shared = weights.variance * variance + weights.covariance * repeated
        return Outcome(losses, features[:, 0], shared=shared, gauges=gauges)
