"""InfoNCE between views, by default between the eyes: a crop of the right one finds the left one of its pair in the batch.

As in MoCo v3 (Chen et al. 2021, section 3), a momentum encoder computes the keys, and these are those of the batch. With q_in the
unit projection of view n of pair i behind its first one, and k_j the teacher's of the first view of pair j:

    loss_i = mean_n -log( exp(q_in k_i / temperature) / sum_j exp(q_in k_j / temperature) )
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator

from learner.bounds import Count, Momentum, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import UnitProjector
from learner.parts.losses import info_nce
from learner.parts.network import Ema, Network
from learner.views.guided import GuidedConfig
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(ObjectiveConfig, GuidedConfig):
    """The temperature of MoCo v3. Its views are part of it, as in version 0.1.0."""

    name = "contrastive"
    takes = SEVERAL
    presets = {"cpu": {**GuidedConfig.presets["cpu"], "teacher_momentum": 0.99, "hidden": 256, "projection": 64}}
    decay_biases: bool = True
    teacher_momentum: Momentum = 0.996
    """alpha: teacher <- alpha * teacher + (1 - alpha) * student after each step."""
    hidden: Count = 2048
    """Width of the hidden layer of the projector."""
    projection: Count = 256
    """Width of a projection."""
    temperature: Positive = 0.2
    """Temperature of the softmax over the batch."""


class Contrastive(Objective[ContrastiveConfig]):
    """The objective with its student and its EMA teacher; it has no other state."""

    meanings = {
        "found": Meaning("ratio", "Views that found their own pair: its first view, its key or its row."),
        "eye_cosine": Meaning("", "Mean cosine of a crop and its own pair's left eye."),
        "student_information": Meaning("ratio", "What the student's answer tells about its pair, of ln of the batch."),
    }

    def __init__(self, config: ContrastiveConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, UnitProjector(encoder.dim, config.hidden, config.projection))
        self.teacher = Ema(self.student, config.teacher_momentum)
        self.views = kit.views(self.teacher.encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the losses of each pair by the formula of this module. The loss of a batch of one pair is 0."""
        views = self.views(batch, generator)
        keys = collectives.all_rows(self.teacher(views.large[:, 0]))  # negatives are those of the whole batch
        features = views.rest.through(self.student.encoder)
        queries = self.student.project(features).flatten(0, 1)
        own = collectives.own_rows(torch.arange(len(keys), device=keys.device)).repeat_interleave(features.shape[1])
        cross_entropy, cosines = info_nce(queries, keys, own, self.config.temperature)
        losses = cross_entropy.view(features.shape[:2]).mean(1)
        gauges = {
            "found": (cosines.argmax(1) == own).float().mean(),
            "eye_cosine": cosines.gather(1, own[:, None]).mean(),
            "student_information": 1 - losses.detach().mean() / math.log(max(2, len(keys))),
        }
        return Outcome(losses, features[:, 0], gauges=gauges)
