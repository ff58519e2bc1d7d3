"""MoCo, first version: that of `learner.objectives.joint.moco` with one linear layer (He et al. 2020, section 3).

The reference has a projection of 128 columns, temperature 0.07, momentum 0.999, a queue of 65536 keys, and the augmentations of
instance discrimination. Here the queue is shorter, because a stream changes, and the views are those that are chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from learner.bounds import Count, Momentum, Positive
from learner.objectives.contract import Objective, ObjectiveConfig
from learner.objectives.joint.moco import MoCo
from learner.parts.heads import UnitProjector
from learner.parts.queue import KeysConfig
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class MoCoV1Config(KeysConfig, ObjectiveConfig):
    """The published numbers, with a shorter queue."""

    name = "mocov1"
    takes = SEVERAL
    presets = {"cpu": {"projection": 64, "queue": 1024, "momentum": 0.99}}

    projection: Count = 128
    """Width of a projection."""
    momentum: Momentum = 0.999
    """Of the copy that makes the keys, after each step."""
    temperature: Positive = 0.07
    """Temperature of the softmax over the own key and the queue."""

    def projector(self, dim: int) -> nn.Module:
        """See MoCoConfig."""
        return UnitProjector(dim, None, self.projection)


class MoCoV1(MoCo, Objective[MoCoV1Config]):
    """The student, the copy that makes the keys, and the queue."""
