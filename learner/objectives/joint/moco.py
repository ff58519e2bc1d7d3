"""MoCo: a view has to find the other view of its pair among the keys of the last pairs (He et al. 2020, section 3.1).

With q the unit projection of a view, k that of the pair's first view by a momentum copy, and k_1 ... k_K a queue of earlier keys:

    loss = -log( exp(q k / temperature) / (exp(q k / temperature) + sum_j exp(q k_j / temperature)) )

and the mean over the views. No pair of the same batch is a negative, so each loss depends on its own pair only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, nn

from learner.bounds import Count
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import UnitProjector
from learner.parts.network import Ema, Network
from learner.parts.queue import KeysConfig, Queue
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class MoCoConfig(KeysConfig, ObjectiveConfig):
    """The numbers of MoCo v2 (Chen et al. 2020, 2003.04297), with a shorter queue, because a stream changes."""

    name = "moco"
    takes = SEVERAL
    presets = {"cpu": {"hidden": 256, "projection": 64, "queue": 1024, "momentum": 0.99}}

    hidden: Count = 2048
    """Width of the hidden layer of the projector."""

    def projector(self, dim: int) -> nn.Module:
        """Return the network behind an encoder with features of this width."""
        return UnitProjector(dim, self.hidden, self.projection)


class MoCo(Objective[MoCoConfig]):
    """The student, the copy that makes the keys, and the queue."""

    meanings = {"found": Meaning("ratio", "Views whose nearest key is their own.")}

    def __init__(self, config: MoCoConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, config.projector(encoder.dim))
        self.teacher = Ema(self.student, config.momentum)
        self.queue = Queue(config.queue, config.projection)
        self.views = kit.views(self.teacher.encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the cross-entropy of each pair's own key."""
        views = self.views(batch, generator)
        keys = self.teacher(views.large[:, 0])
        self.queue.push(keys)
        features = views.rest.through(self.student.encoder)
        queries = self.student.project(features)
        with torch.autocast(queries.device.type, enabled=False):
            own, others = (queries * keys[:, None]).sum(-1, keepdim=True), queries @ self.queue.rows.T
        logits = torch.cat([own, others], -1) / self.config.temperature
        losses = -F.log_softmax(logits, -1)[..., 0].mean(1)
        found = (logits.detach().argmax(-1) == 0).float().mean()
        return Outcome(losses, features[:, 0], gauges={"found": found})
