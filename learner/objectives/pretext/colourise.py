"""Colourisation: which colour does each patch of a grey image have? (Zhang et al. 2016, section 2)

A linear classifier of the token of each patch guesses the class of its mean colour. With z_p the soft classes of patch p, y_p the
guessed distribution, and w the weight of its nearest class, which is larger for rare colours:

    loss = mean over the patches p of w(z_p) * H(z_p, y_p)

The paper guesses every fourth pixel by convolutions; the tokens of a transformer stand for whole patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from learner.bounds import Momentum, Share
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.objectives.pretext.colours import Rarity, colour_classes, mean_colours, softly
from learner.parts.network import Network
from learner.views.lab import LabConfig


@dataclass(frozen=True, kw_only=True)
class ColouriseConfig(ObjectiveConfig):
    """The published weight of rarity."""

    name = "colourise"
    takes = (LabConfig,)

    mix: Share = 0.5
    """lambda in the paper: 1 weights all colours alike."""
    shares_momentum: Momentum = 0.99
    """Of the shares of the colours, after each step."""


class Colourise(Objective[ColouriseConfig]):
    """Encoder and classifier, and how rare each colour is."""

    meanings = {"right": Meaning("ratio", "Guesses that were right.")}
    classes: Tensor

    def __init__(self, config: ColouriseConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        encoder.require("some tokens", "objective colourise")
        self.student = Network(encoder, nn.Identity())
        self.register_buffer("classes", colour_classes(), persistent=False)
        self.classifier = nn.Linear(encoder.dim, len(self.classes))
        self.rarity = Rarity(len(self.classes), mix=config.mix, momentum=config.shares_momentum)
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the weighted cross-entropy of the colours of each pair's patches."""
        grey, colours = self.views(batch, generator).large.unbind(1)
        targets = softly(mean_colours(colours, self.student.encoder.patch_size), self.classes)
        self.rarity.note(targets)
        features, tokens = self.student.encoder.tokens(grey)
        with torch.autocast(tokens.device.type, enabled=False):
            guesses = self.classifier(tokens.float()).log_softmax(-1)
        nearest = targets.argmax(-1)
        losses = self.rarity.weights()[nearest] * -(targets * guesses).sum(-1)
        right = (guesses.argmax(-1) == nearest).float().mean()
        return Outcome(losses.mean(1), features, gauges={"right": right})
