"""EMP-SSL: many small crops of a pair agree with their mean, and each crop of the batch fills the space (Tong et al. 2023).

With z_v the unit projections [B, D] of view v, m their mean over the views, and R the coding rate of the batch:

    loss_i = invariance * mean_v (1 - cos(z_iv, m_i))
    shared = -mean_v R(z_v), R(z) = 1/2 log det(I + D / (B * epsilon^2) z^T z)

As in the authors' code (tsb0601/EMP-SSL), whose `eps` is epsilon squared, except for the 1, which keeps losses at 0 or above.
They take 20 to 200 crops of an image; their code has 1024 columns, batch norms and a hidden layer more, whose output is probed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator

from learner.bounds import Count, NotNegative, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import mlp
from learner.parts.losses import coding_rate
from learner.parts.network import Network
from learner.views.several import MULTI_FIRST


@dataclass(frozen=True, kw_only=True)
class EMPConfig(ObjectiveConfig):
    """The authors' weights and hidden width."""

    name = "empssl"
    takes = MULTI_FIRST
    presets = {"cpu": {"hidden": 256, "projection": 64}}

    hidden: Count = 4096
    """Width of the hidden layer of the projector."""
    projection: Count = 512
    """D, the width of a projection."""
    invariance: NotNegative = 200.0
    """Weight of the agreement of the crops."""
    epsilon_squared: Positive = 0.2
    """Squared precision of the coding rate."""


class EMP(Objective[EMPConfig]):
    """One network and no other state."""

    meanings = {"coding_rate": Meaning("nats", "How much of the space a view's batch fills.")}

    def __init__(self, config: EMPConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, mlp(encoder.dim, config.hidden, config.projection))
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the disagreement of each pair's crops, and the coding rate as the shared term."""
        features = self.views(batch, generator).through(self.student.encoder)
        rows = F.normalize(self.student.project(features), dim=-1)
        agreement = F.cosine_similarity(rows, rows.mean(1, keepdim=True), dim=-1).mean(1)
        rate = torch.stack([coding_rate(z, self.config.epsilon_squared) for z in collectives.everyone(rows).unbind(1)])
        gauges = {"coding_rate": rate.detach().mean()}
        return Outcome(self.config.invariance * (1 - agreement), features[:, 0], shared=-rate.mean(), gauges=gauges)
