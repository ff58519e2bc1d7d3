"""SwAV: each view guesses to which prototypes another view of its pair was assigned (Caron et al. 2020).

With s_v the cosines of the projection of view v to K prototypes, and Q_g = sinkhorn(s_g / sharpness) the codes of a large view g,
which spread the batch evenly over the prototypes (sections 3.1 and 3.2, equations 1 to 5):

    loss = mean over views v and large views g != v of H(Q_g, softmax(s_v / temperature))

A queue, once full, is assigned beside the batch, because one smaller than K cannot fill the prototypes (section 5.1). The
reference has K = 3000, projector 2048-128, temperature 0.1, sharpness (epsilon) 0.05, 3 rounds, and for 256 images a queue of
3840 for each view from epoch 15 on. It keeps the prototypes fixed for 313 steps. Here one queue serves all views, the projector
has one more layer and no batch norm, and the prototypes learn at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator

from learner.bounds import Bound, Count, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import PrototypeConfig
from learner.parts.losses import divergence, sinkhorn
from learner.parts.network import Network
from learner.parts.queue import Queue
from learner.parts.targets import TARGET_MEANINGS, target_gauges
from learner.views.several import MULTI_FIRST


@dataclass(frozen=True, kw_only=True)
class SwAVConfig(PrototypeConfig, ObjectiveConfig):
    """The published numbers for small batches; fewer prototypes for a CPU."""

    name = "swav"
    takes = MULTI_FIRST
    presets = {"cpu": {"hidden": 256, "bottleneck": 64, "prototypes": 256, "queue": 512}}

    prototypes: Annotated[int, Bound(ge=2)] = 3000
    """K, the number of prototypes."""
    bottleneck: Count = 128
    """Width of a projection."""
    queue: Count = 3840
    """Projections of earlier large views that are assigned beside those of the batch."""
    sharpness: Positive = 0.05
    """epsilon, the temperature of the codes."""
    temperature: Positive = 0.1
    """Temperature of the softmax of the answers."""


class SwAV(Objective[SwAVConfig]):
    """The student with its prototypes, and the queue."""

    meanings, shared_statistics = TARGET_MEANINGS, "Sinkhorn's codes are those of the whole batch"

    def __init__(self, config: SwAVConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, config.projector(encoder.dim))
        self.queue, self.views = Queue(config.queue, config.bottleneck), kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the cross-entropy of each pair's codes, and the KL as its priority."""
        views = self.views(batch, generator)
        features = views.through(self.student.encoder)
        projections, scores = self.student.project(features)
        large = collectives.all_rows(scores[:, : views.large.shape[1]].detach()) / self.config.sharpness
        self.queue.push(projections[:, : views.large.shape[1]].flatten(0, 1))
        earlier = self.queue.rows[: len(self.queue.rows) * bool(self.queue.taken >= len(self.queue.rows))]
        more = self.student.projector.cosines(earlier).detach() / self.config.sharpness
        codes = torch.stack([sinkhorn(torch.cat([some, more]))[: len(large)] for some in large.unbind(1)], 1)
        log_answers = (scores / self.config.temperature).log_softmax(-1)
        losses, entropy, kl = divergence(collectives.own_rows(codes), log_answers)
        return Outcome(losses, features[:, 0], kl, gauges=target_gauges(codes.flatten(0, 1), entropy, kl))
