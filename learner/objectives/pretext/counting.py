"""Counting: the counts of a whole crop are the sum of the counts of its tiles (Noroozi et al. 2017).

With c the counts, not negative, of a small image by the network, x the whole crop made as small as a tile, and T_j its tiles
(equation 4):

    loss_i = |c(x_i) - sum_j c(T_j x_i)|^2 + mean over other pairs k of max(0, margin - |c(x_k) - sum_j c(T_j x_i)|^2)

The second term keeps the counts from being all 0; the paper has one other image, here it is every other pair of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator

from learner.bounds import Count, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import mlp
from learner.parts.losses import mean_where
from learner.parts.network import Network
from learner.views.tiles import TilesConfig


@dataclass(frozen=True, kw_only=True)
class CountingConfig(ObjectiveConfig):
    """The published margin and number of counts."""

    name = "counting"
    takes = (TilesConfig,)
    presets = {"cpu": {"hidden": 256, "counts": 64}}

    hidden: Count = 2048
    """Width of the hidden layer behind the features."""
    counts: Count = 1000
    """Numbers that are counted."""
    margin: Positive = 10.0
    """Squared distance to the counts of another pair that is enough."""


class Counting(Objective[CountingConfig]):
    """One network and no other state."""

    meanings = {"counted": Meaning("", "Mean sum of the counts of a whole crop.")}

    def __init__(self, config: CountingConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, mlp(encoder.dim, config.hidden, config.counts))
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the loss of each pair by the formula of this module."""
        views = self.views(batch, generator)
        size = views.small.shape[-1]
        whole = F.interpolate(views.large[:, 0], (size, size), mode="bilinear", antialias=True)
        small = torch.cat([whole[:, None], views.small], 1)
        features = self.student.encoder(small.flatten(0, 1)).view(*small.shape[:2], -1)
        counts = F.relu(self.student.project(features))
        sums, wholes = counts[:, 1:].sum(1), collectives.everyone(counts[:, 0])
        apart = (wholes.nan_to_num() - sums[:, None]).square().sum(-1)
        own = collectives.own_rows(torch.arange(len(wholes), device=sums.device))
        others = (torch.arange(len(wholes), device=sums.device) != own[:, None]) & wholes.isfinite().all(-1)
        pushed = mean_where(F.relu(self.config.margin - apart), others)
        losses = (counts[:, 0] - sums).square().sum(-1) + pushed
        return Outcome(losses, features[:, 0], gauges={"counted": counts[:, 0].detach().sum(-1).mean()})
