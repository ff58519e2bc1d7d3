"""DeepCluster: the clusters of recent features are the labels that each view has to guess (Caron et al. 2018).

As in its second version (Caron et al. 2020, SwAV, appendix), there is no classifier that starts over: the centres c_k are the
prototypes. Every so many steps they are found again by k-means in a queue of recent projections. With z_v the unit projection of
view v, and y the centre nearest to the mean of the pair's projections:

    loss = mean_v -log( exp(z_v c_y / temperature) / sum_k exp(z_v c_k / temperature) )
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator

from learner.bounds import Bound, Count, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.clusters import Clusters
from learner.parts.heads import UnitProjector
from learner.parts.network import Network
from learner.parts.targets import TARGET_MEANINGS, target_gauges
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class DeepClusterConfig(ObjectiveConfig):
    """The temperature of the second version; a queue in place of an epoch."""

    name = "deepcluster"
    takes = SEVERAL
    presets = {"cpu": {"hidden": 256, "projection": 64, "clusters": 64, "recent": 1024}}

    hidden: Count = 2048
    """Width of the hidden layer of the projector."""
    projection: Count = 128
    """Width of a projection."""
    clusters: Annotated[int, Bound(ge=2)] = 1000
    """K, the number of clusters."""
    recent: Count = 8192
    """Projections of recent pairs in which they are found."""
    every_steps: Count = 50
    """Steps between two searches."""
    temperature: Positive = 0.1
    """Temperature of the softmax over the clusters."""


class DeepCluster(Objective[DeepClusterConfig]):
    """The student and the clusters."""

    meanings = TARGET_MEANINGS

    def __init__(self, config: DeepClusterConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder, sizes = kit.encoder(), {"recent": config.recent, "every_steps": config.every_steps}
        self.student = Network(encoder, UnitProjector(encoder.dim, config.hidden, config.projection))
        self.clusters = Clusters(config.clusters, config.projection, **sizes)
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the cross-entropy of each pair's cluster."""
        features = self.views(batch, generator).through(self.student.encoder)
        projections = self.student.project(features)
        mean = F.normalize(projections.detach().mean(1), dim=-1)
        self.clusters.queue.push(mean)
        with torch.autocast(mean.device.type, enabled=False):
            labels, logits = (mean @ self.clusters.centres.T).argmax(-1), projections @ self.clusters.centres.T
        log_shares = F.log_softmax(logits / self.config.temperature, -1)
        losses = -log_shares.gather(-1, labels[:, None, None].expand(-1, logits.shape[1], 1))[..., 0].mean(1)
        targets = F.one_hot(collectives.all_rows(labels), self.config.clusters).float()
        gauges = target_gauges(targets, torch.zeros_like(losses), losses.detach())
        return Outcome(losses, features[:, 0], gauges=gauges)
