"""Exemplars: each pair is a class of its own, told from the others by a triplet with a margin (Dosovitskiy et al. 2014).

The paper trains a classifier over a fixed set of images. A stream has none, so this is the form with triplets (Kolesnikov et al.
2019, revisiting self-supervised visual representation learning). With q_v and k_w unit projections of views:

    loss_i = mean over pairs of views v != w of mean over the hardest j of max(0, margin + cos(q_iv, k_jw) - cos(q_iv, k_iw))

The hardest are those views of other pairs that are nearest (Wang and Gupta 2015, who track patches; section 5.3). The code of
Kolesnikov et al. compares squared distances, and takes semi-hard negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from learner.bounds import Count, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import UnitProjector
from learner.parts.losses import between_views, triplet
from learner.parts.network import Network
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class ExemplarConfig(ObjectiveConfig):
    """The margin of Kolesnikov et al., and hard negatives."""

    name = "exemplar"
    takes = SEVERAL
    presets = {"cpu": {"hidden": 256, "projection": 64}}

    hidden: Count = 2048
    """Width of the hidden layer of the projector."""
    projection: Count = 256
    """Width of a projection."""
    margin: Positive = 0.5
    """By how much the cosine to the own pair has to be larger."""
    hardest: Count = 4
    """Other pairs that count, the nearest ones."""


class Exemplar(Objective[ExemplarConfig]):
    """One network and no other state."""

    def __init__(self, config: ExemplarConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, UnitProjector(encoder.dim, config.hidden, config.projection))
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the loss of each pair by the formula of this module."""
        features = self.views(batch, generator).through(self.student.encoder)
        rows = self.student.project(features)
        everyones, views = collectives.everyone(rows), rows.shape[1]
        own = collectives.own_rows(torch.arange(len(everyones), device=rows.device))
        margin, hardest = self.config.margin, self.config.hardest
        terms = [triplet(rows[:, v], everyones[:, w], own, margin, hardest) for v in range(views) for w in range(views)]
        return Outcome(between_views(torch.stack(terms, 1).view(-1, views, views)), features[:, 0])
