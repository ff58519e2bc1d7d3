"""A model of what an action does: from the embedding of a pair and the action to the embedding of the next pair.

It is the part that the live-video experiment had planned next, and one step of SPR (Schwarzer et al. 2021, 2007.05929). With
z_t the unit projection of a pair, a_t what the robot did until the next one, h the model and k the teacher's projection:

    loss = | h(z_t, a_t) / |h(z_t, a_t)| - k_{t+1} |^2

SPR looks five steps ahead, adds a predictor behind a convolutional model, and learns beside a policy. Here the prediction is all
there is; as in BYOL, the teacher that follows keeps pictures apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator

from learner.bounds import Count, Momentum
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.objectives.control.moves import Model, moves
from learner.parts.heads import UnitProjector
from learner.parts.network import Ema, Network
from learner.parts.windows import USABLE, spread
from learner.views.one_eye import WholeConfig
from stream.signals.signal import ACTION


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig(ObjectiveConfig):
    """The momentum of SPR's target without augmentation, and the width of BYOL's projection."""

    name = "dynamics"
    takes = (WholeConfig,)
    clip = 4
    signals = (ACTION,)
    presets = {"cpu": {"hidden": 256, "projection": 64}}

    teacher_momentum: Momentum = 0.99
    """alpha: teacher <- alpha * teacher + (1 - alpha) * student after each step."""
    hidden: Count = 1024
    """Width of the hidden layers of projector and model."""
    projection: Count = 256
    """Width of a projection."""


class Dynamics(Objective[DynamicsConfig]):
    """The student with its model, and the teacher; it has no other state."""

    meanings = {
        "foreseen": Meaning("", "Mean cosine between the guess and the next pair."),
        "foreseen_idle": Meaning("", "Mean cosine between the next pair and a guess without the action."),
        "unmoved": Meaning("", "Mean cosine between a pair and the next one: that of a guess that nothing changes."),
        **USABLE,
    }

    def __init__(self, config: DynamicsConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, UnitProjector(encoder.dim, config.hidden, config.projection))
        self.model = Model(config.projection, config.hidden, config.projection)
        self.teacher = Ema(self.student, config.teacher_momentum)
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the losses of each pair by the moves that it is part of."""
        pictures, move = self.views(batch, generator).large[:, 0], moves(batch, ACTION)
        before, after = move.rows.unbind(1)
        features, keys = self.student.encoder(pictures), self.teacher(pictures)
        present = self.student.project(features)[before]
        told, idle = (F.normalize(self.model(present, action), dim=-1) for action in (move.action, 0 * move.action))
        losses, gauges = spread((told - keys[after]).square().sum(-1), move.rows, features)
        cosines = {"foreseen": told, "foreseen_idle": idle, "unmoved": keys[before]}
        means = {name: move.mean((rows * keys[after]).sum(-1), features) for name, rows in cosines.items()}
        return Outcome(losses, features, gauges=gauges | means)
