"""Rotation: which way up is this view? (Gidaris et al. 2018, RotNet, section 2)

Each view is turned by 0, 90, 180 and 270 degrees, all four in the same batch, as the paper found best; a linear classifier
guesses the turn from the features:

    loss_i = mean over the large views and the four turns of the cross-entropy

Where gravity is always seen, as by a rig that is worn upright, the turn says what things look like, and needs no second view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, nn

from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import Classifier
from learner.parts.network import Network
from learner.views.several import SEVERAL

TURNS = 4


@dataclass(frozen=True, kw_only=True)
class RotationConfig(ObjectiveConfig):
    """There is nothing to set."""

    name = "rotation"
    takes = SEVERAL


class Rotation(Objective[RotationConfig]):
    """Encoder and classifier, and no other state."""

    meanings = {"right": Meaning("ratio", "Guesses that were right.")}

    def __init__(self, config: RotationConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, nn.Identity())
        self.classifier = Classifier(encoder.dim, TURNS)
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the mean cross-entropy of the turns of each pair's large views."""
        large = self.views(batch, generator).large
        turned = torch.stack([large.rot90(turns, (-2, -1)) for turns in range(TURNS)], 2)
        features = self.student.encoder(turned.flatten(0, 2))
        labels = torch.arange(TURNS, device=features.device).repeat(len(features) // TURNS)
        losses, is_right = self.classifier(features, labels)
        upright = features.view(len(large), -1, TURNS, features.shape[-1])[:, 0, 0]
        return Outcome(losses.view(len(large), -1).mean(1), upright, gauges={"right": is_right.float().mean()})
