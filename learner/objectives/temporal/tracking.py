"""Tracking: a patch is near to what it has become, and far from other patches (Wang and Gupta 2015, section 5).

With D = 1 - cosine of two projections, x a patch, x+ the same one some pictures later, and x- the later ones of other clips:

    loss = mean over the `hardest` nearest x- of max(0, margin + D(x, x+) - D(x, x-))

(sections 5.2 and 5.3). The paper follows patches over 30 frames, and takes random negatives first and the 4 hardest ones later.
Its code has a projection of 1024, margin 1, half of the negatives by chance, and x+ as an anchor too. Here they are the hardest
of the batch from the start. A clip has one patch; where it is lost on the way, the clip is not used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from learner.bounds import Count, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import UnitProjector
from learner.parts.losses import triplet
from learner.parts.network import Network
from learner.parts.windows import USABLE, mean_of, spread
from learner.views.clips.tracked import TrackedConfig, TrackedViews


@dataclass(frozen=True, kw_only=True)
class TrackingConfig(ObjectiveConfig):
    """The published number of negatives, and a margin that the authors name beside theirs."""

    name = "tracking"
    takes = (TrackedConfig,)
    clip = 8
    presets = {"cpu": {"hidden": 256, "projection": 64}}

    hidden: Count = 2048
    """Width of the hidden layer of the projector."""
    projection: Count = 1024
    """Width of a projection."""
    margin: Positive = 0.5
    """By how much D to a negative has to be larger; M in the paper."""
    hardest: Count = 4
    """How many negatives count: the patches of other clips that are most similar; K in the paper."""


class Tracking(Objective[TrackingConfig]):
    """One network and no other state."""

    meanings = {
        "right_by_margin": Meaning("ratio", "Patches nearer to their later look than to any other, by the margin."),
        **USABLE,
    }

    def __init__(self, config: TrackingConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        assert isinstance(kit.views_config, TrackedConfig)
        self.window = kit.views_config.span + 1
        self.student = Network(encoder, UnitProjector(encoder.dim, config.hidden, config.projection))
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the loss of the track of each pair's clip."""
        views = self.views(batch, generator)
        assert isinstance(views, TrackedViews)
        features = views.through(self.student.encoder)
        patches, later = self.student.project(features).unbind(1)
        first = views.is_followed.nonzero()
        # A key that is not finite is no negative (`triplet`): a patch that was not followed is none.
        keys = collectives.everyone(later.masked_fill(~views.is_followed[:, None], torch.nan))
        own = collectives.number() * len(batch) + first[:, 0]
        terms = triplet(patches[first[:, 0]], keys, own, self.config.margin, self.config.hardest)
        rows = first + torch.arange(self.window, device=first.device)
        losses, gauges = spread(terms, rows, features[:, 0])
        return Outcome(losses, features[:, 0], gauges={"right_by_margin": mean_of(terms == 0), **gauges})
