"""DeepCluster, first version: the clusters of whitened features are the classes of a linear classifier (Caron et al. 2018).

Every so many steps, in place of an epoch, the features of recent pairs are reduced by PCA, whitened and scaled to length 1, their
K clusters are found by k-means, and a new classifier begins (section 3.2). With x_v the features of view v, y the cluster nearest
to the mean over the views, and n_y how many of N recent pairs lie in it:

    loss = mean_v weight_y * -log softmax(W x_v + b)_y,   weight_y = N / (K * n_y)

The weight stands for the reference's sampling, uniform over the clusters (section 3.3, trivial parametrisation). Its K is 10000
for ImageNet, its PCA keeps 256 columns; it sees edges in place of colours, and its backbones are convolutional.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, nn

from learner.bounds import Bound, Count
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.clusters import Pseudolabels
from learner.parts.network import Network
from learner.parts.targets import TARGET_MEANINGS, target_gauges
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class DeepClusterV1Config(ObjectiveConfig):
    """Fewer clusters than the published ones, for the few recent pairs of a stream."""

    name = "deepclusterv1"
    takes = SEVERAL
    presets = {"cpu": {"clusters": 64, "recent": 1024}}

    clusters: Annotated[int, Bound(ge=2)] = 1000
    """K, the number of clusters."""
    components: Count = 256
    """Columns that PCA keeps, at most the width of the features."""
    recent: Count = 8192
    """N, the recent pairs in which the clusters are found."""
    every_steps: Count = 50
    """Steps between two searches."""


class DeepClusterV1(Objective[DeepClusterV1Config]):
    """The student, the clusters and their classifier."""

    meanings = TARGET_MEANINGS

    def __init__(self, config: DeepClusterV1Config, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student, self.views = Network(encoder, nn.Identity()), kit.views(encoder)
        sizes = config.clusters, min(config.components, encoder.dim)
        self.clusters = Pseudolabels(encoder.dim, *sizes, recent=config.recent, every_steps=config.every_steps)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the weighted cross-entropy of each pair's cluster."""
        features = self.views(batch, generator).through(self.student.encoder)
        mean = features.detach().float().mean(1)
        self.clusters.queue.push(mean)
        labels = self.clusters.of(mean)
        scores = self.clusters.scores(features)
        losses = F.cross_entropy(scores.mT, labels[:, None].expand(-1, features.shape[1]), reduction="none").mean(1)
        targets = F.one_hot(collectives.all_rows(labels), self.config.clusters).float()
        gauges = target_gauges(targets, losses.new_zeros(len(losses)), losses.detach())
        return Outcome(self.clusters.weights[labels] * losses, features[:, 0], gauges=gauges)
