"""Arrow of time: do these pictures run forwards or backwards? (Wei et al. 2018, after Pickup et al. 2014)

Each window of `frames` pictures is shown both ways, and a perceptron guesses the direction from the features of all of them:

    loss = mean over both directions of the cross-entropy

The paper shows groups of frames of optical flow to its T-CAM. It takes black borders away and the motion of the camera out of
the pictures, because both betray the direction without any understanding. Here the rig moves, and how it moves is part of what
there is to see: one that only drives forwards makes this easy. The crop lies at one place for the whole clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, nn

from learner.bounds import Bound, Count
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.objectives.temporal.order import Judge
from learner.parts.network import Network
from learner.parts.windows import USABLE, mean_of, spread
from learner.views.clips.steady import SteadyConfig


@dataclass(frozen=True, kw_only=True)
class ArrowConfig(ObjectiveConfig):
    """Short windows, for short clips."""

    name = "arrow"
    takes = (SteadyConfig,)
    clip = 8
    presets = {"cpu": {"hidden": 256}}

    hidden: Count = 1024
    """Width of the hidden layer that judges the pictures."""
    frames: Annotated[int, Bound(ge=2)] = 4
    """Pictures of a window."""


class Arrow(Objective[ArrowConfig]):
    """Encoder and judge, and no other state."""

    meanings = {"right": Meaning("ratio", "Guesses that were right."), **USABLE}

    def __init__(self, config: ArrowConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, nn.Identity())
        self.judge = Judge(encoder.dim, config.hidden, pictures=config.frames, answers=2)
        self.views = kit.views(encoder)
        self.window = config.frames

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the mean cross-entropy of the windows of each pair, forwards and backwards."""
        features = self.student.encoder(self.views(batch, generator).large[:, 0])
        windows = batch.windows(self.window)
        both = torch.stack([windows, windows.flip(1)], 1)
        labels = torch.tensor([0, 1], device=both.device).repeat(len(both))
        terms, is_right = self.judge(features[both].flatten(0, 1), labels)
        losses, gauges = spread(terms.view(-1, 2).mean(1), windows, features)
        return Outcome(losses, features, gauges={"right": mean_of(is_right), **gauges})
