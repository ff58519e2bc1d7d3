"""Shuffle and learn: do three pictures follow each other in time? (Misra et al. 2016)

Of five pictures a < b < c < d < e, (b, c, d) is in order, and (b, a, d) and (b, e, d) are not. Forwards and backwards both count
as in order, so each is turned round by chance. The windows of a clip are drawn in proportion to how much moves in them.

    loss = mean over the three of the cross-entropy of: in order, or not

The paper measures motion by optical flow, here it is the difference of small pictures; it takes pictures farther apart, no c that
looks like a or e, and three wrong triples to a right one. It has one linear layer behind the three features, which cannot compare
them; here a hidden layer lies between.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, nn

from learner.bounds import Count
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.objectives.temporal.order import Judge, lively, motion_of
from learner.parts.network import Network
from learner.parts.windows import USABLE, mean_of, spread
from learner.views.clips.steady import ClipViews, SteadyConfig


@dataclass(frozen=True, kw_only=True)
class ShuffleConfig(ObjectiveConfig):
    """Neighbours, because a stream behind dedupe has a picture only where something has moved."""

    name = "shuffle"
    takes = (SteadyConfig,)
    clip = 8
    presets = {"cpu": {"hidden": 256}}

    hidden: Count = 1024
    """Width of the hidden layer that judges three pictures."""
    stride: Count = 1
    """Pairs from one of the five pictures to the next."""


class Shuffle(Objective[ShuffleConfig]):
    """Encoder and judge, and no other state."""

    meanings = {"right": Meaning("ratio", "Guesses that were right."), **USABLE}

    def __init__(self, config: ShuffleConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student, self.views = Network(encoder, nn.Identity()), kit.views(encoder)
        self.judge = Judge(encoder.dim, config.hidden, pictures=3, answers=2)
        self.window = 4 * config.stride + 1

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the mean cross-entropy of three triples of each clip."""
        views = self.views(batch, generator)
        assert isinstance(views, ClipViews)
        pictures = views.large[:, 0]
        rows = batch.windows(self.window)[:, :: self.config.stride]
        clips, chances = batch.clip_numbers()[rows[:, 0]], views.chances[rows[:, 0], 0]
        rows = rows[lively(clips, motion_of(pictures, rows), chances)]
        features = self.student.encoder(pictures)
        triples = rows[:, [[1, 2, 3], [1, 0, 3], [1, 4, 3]]]
        turned = torch.where(views.chances[rows[:, 0], 1, None, None] < 0.5, triples, triples.flip(-1))
        labels = torch.tensor([0, 1, 1], device=rows.device).repeat(len(rows))
        terms, is_right = self.judge(features[turned].flatten(0, 1), labels)
        losses, gauges = spread(terms.view(-1, 3).mean(1), rows, features)
        return Outcome(losses, features, gauges={"right": mean_of(is_right), **gauges})
