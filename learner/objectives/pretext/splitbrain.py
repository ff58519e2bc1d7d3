"""Split-brain autoencoder: lightness and colours of a crop are guessed from each other (Zhang et al. 2017).

Linear classifiers of the token of each patch guess classes: from the lightness that of its mean colour, from the colours that of
its mean lightness, in 100 steps:

    loss = mean over the patches p of (H(colour_p, guess from lightness) + H(lightness_p, guess from colours)) / 2

The paper has half a network for each half of the channels; here one encoder sees each half in turn, in three channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, Tensor, nn

from learner.bounds import Count
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.objectives.pretext.colours import colour_classes, mean_colours, softly
from learner.parts.network import Network
from learner.parts.patches import patches_of
from learner.views.lab import LabConfig


@dataclass(frozen=True, kw_only=True)
class SplitBrainConfig(ObjectiveConfig):
    """A class for each unit of lightness; those of the colours are as in `colourise`."""

    name = "splitbrain"
    takes = (LabConfig,)

    levels: Count = 100
    """Classes of lightness."""


class SplitBrain(Objective[SplitBrainConfig]):
    """Encoder and two classifiers, and no other state."""

    classes: Tensor

    def __init__(self, config: SplitBrainConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        encoder.require("some tokens", "objective splitbrain")
        self.student = Network(encoder, nn.Identity())
        self.register_buffer("classes", colour_classes(), persistent=False)
        self.to_colour = nn.Linear(encoder.dim, len(self.classes))
        self.to_lightness = nn.Linear(encoder.dim, config.levels)
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the mean of both cross-entropies of each pair."""
        views, encoder = self.views(batch, generator).large, self.student.encoder
        lightness = patches_of(views[:, 0], encoder.patch_size).mean(-1)
        level = (lightness.nan_to_num() * self.config.levels).long().clamp_max(self.config.levels - 1)
        colour = softly(mean_colours(views[:, 1], encoder.patch_size), self.classes).argmax(-1)
        features, tokens = encoder.tokens(views.flatten(0, 1))
        with torch.autocast(tokens.device.type, enabled=False):
            grey, coloured = tokens.float().view(len(views), 2, *tokens.shape[1:]).unbind(1)
            guesses = (self.to_colour(grey), colour), (self.to_lightness(coloured), level)
            terms = [F.cross_entropy(scores.mT, labels, reduction="none").mean(1) for scores, labels in guesses]
        return Outcome(sum(terms, torch.zeros_like(terms[0])) / 2, features.view(len(views), 2, -1)[:, 0])
