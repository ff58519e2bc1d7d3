"""Multi-view NT-Xent: each view of a pair has to find the other views of its pair, of both eyes, among those of the batch.

The loss is that of SimCLR (Chen et al. 2020, section 2.1, equation 1) over all views of a pair, with gradient through each of
them. `learner.parts.losses.nt_xent` has the formula. An EMA teacher follows the student; its attention places the views, and its
weights are exported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator

from learner.bounds import Count, Momentum, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import BatchNorm, mlp
from learner.parts.losses import nt_xent
from learner.parts.network import Ema, Network
from learner.views.augment import SOFT_AUGMENTATION
from learner.views.several import GUIDED_FIRST


@dataclass(frozen=True, kw_only=True)
class NTXentConfig(ObjectiveConfig):
    """The numbers that were measured for a stream (`docs/learning.md`)."""

    name = "ntxent"
    takes = GUIDED_FIRST
    presets = {"cpu": {"hidden": 256, "projection": 64, "teacher_momentum": 0.99}}
    view_presets = {"cpu": {"teacher_augmentation": SOFT_AUGMENTATION, "student_augmentation": SOFT_AUGMENTATION}}

    teacher_momentum: Momentum = 0.996
    """alpha: teacher <- alpha * teacher + (1 - alpha) * student after each step."""
    hidden: Count = 2048
    """Width of the two hidden layers of the projector."""
    projection: Count = 256
    """Width of a projection."""
    temperature: Positive = 0.1
    """Temperature of the softmax over the views of the batch."""


class NTXent(Objective[NTXentConfig]):
    """The student and its EMA teacher; it has no other state."""

    shared_statistics = "the projector has a batch norm"
    meanings = {
        "view_cosine": Meaning("", "Mean cosine between the first and the last view of a pair."),
        "student_information": Meaning("ratio", "What a view tells about its pair, as a share of all that there is."),
    }

    def __init__(self, config: NTXentConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder, widths = kit.encoder(), (config.hidden, config.hidden, config.projection)
        self.student = Network(encoder, mlp(encoder.dim, *widths, norm=BatchNorm))
        self.teacher = Ema(self.student, config.teacher_momentum)
        self.views = kit.views(self.teacher.encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return NT-Xent of each pair; a batch of one pair has only its own views to tell apart."""
        features = self.views(batch, generator).through(self.student.encoder)
        rows = F.normalize(self.student.project(features), dim=-1)
        everyones, first = collectives.everyone(rows), collectives.number() * len(batch)
        losses = nt_xent(rows, everyones, first, self.config.temperature)
        # A view that finds its pair has the other views of the pair left to guess between.
        least, most = math.log(rows.shape[1] - 1), math.log(everyones.shape[0] * rows.shape[1] - 1)
        gauges = {
            "view_cosine": (rows[:, 0] * rows[:, -1]).sum(-1).detach().mean(),
            "student_information": (most - losses.detach().mean()) / max(most - least, 1e-9),
        }
        return Outcome(losses, features[:, 0], gauges=gauges)
