"""Odd one out: which of some runs of pictures has a wrong order in time? (Fernando et al. 2017, O3N, section 3)

Of a window, `questions` runs of `frames` pictures are taken, each one picture later than the one before. One of them, drawn by
chance, is shuffled. A perceptron makes a code of the features of each run, and a classifier guesses from all codes which it is.

    loss = cross-entropy of the number of the shuffled run

The paper has 6 runs of 6 frames, of which a network sees an encoding, such as a dynamic image; here the encoder sees single
pictures, as when it is probed, and codes are put beside each other, one of the paper's two ways to compare them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from learner.bounds import Bound, Count
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.objectives.temporal.order import Judge
from learner.parts.heads import mlp
from learner.parts.network import Network
from learner.parts.windows import USABLE, mean_of, spread
from learner.views.clips.steady import ClipViews, SteadyConfig


@dataclass(frozen=True, kw_only=True)
class OddOneConfig(ObjectiveConfig):
    """Fewer and shorter runs than the paper's, for short clips."""

    name = "oddone"
    takes = (SteadyConfig,)
    clip = 8
    presets = {"cpu": {"hidden": 256}}

    hidden: Count = 1024
    """Width of the code of a run, and of the layer that compares codes."""
    questions: Annotated[int, Bound(ge=2)] = 3
    """Runs that are compared; one of them is shuffled."""
    frames: Annotated[int, Bound(ge=2)] = 4
    """Pictures of a run."""


class OddOne(Objective[OddOneConfig]):
    """Encoder, codes and judge, and no other state."""

    meanings = {"right": Meaning("ratio", "Odd ones that were found."), **USABLE}

    def __init__(self, config: OddOneConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, mlp(config.frames * encoder.dim, config.hidden, config.hidden))
        self.judge = Judge(config.hidden, config.hidden, pictures=config.questions, answers=config.questions)
        self.views = kit.views(encoder)
        self.window = config.questions + config.frames - 1

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the mean cross-entropy of the windows of each pair."""
        views, questions, frames = self.views(batch, generator), self.config.questions, self.config.frames
        assert isinstance(views, ClipViews)
        windows = batch.windows(self.window)
        odd = (views.chances[windows[:, 0], 0] * questions).long()
        runs = windows.unfold(1, frames, 1)
        wrong = shuffled(runs[torch.arange(len(runs), device=odd.device), odd], views.chances[:, 1])
        is_odd = torch.arange(questions, device=odd.device) == odd[:, None]
        asked = torch.where(is_odd[..., None], wrong[:, None], runs)
        features = self.student.encoder(views.large[:, 0])
        terms, is_right = self.judge(self.student.project(features[asked].flatten(2)), odd)
        losses, gauges = spread(terms, windows, features)
        return Outcome(losses, features, gauges={"right": mean_of(is_right), **gauges})


def shuffled(runs: Tensor, chances: Tensor) -> Tensor:
    """Return each run [W, k] in the order of the chances [B] of its rows, moved on by one where that is the old order."""
    order = chances[runs].argsort(1)
    is_old = (order.diff(dim=1) == 1).all(1, keepdim=True)
    return runs.gather(1, torch.where(is_old, order.roll(1, 1), order))
