"""An objective of one's own: which way up is this view? (Gidaris et al. 2018, RotNet)

    python -m learner --objective examples.own_objective:Rotation --preset cpu --replay walk.mcap --run-dir runs/rotation

docs/objectives.md explains each line, and `--help` behind it shows its settings.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, nn

from learner.bounds import Positive
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.network import Network
from learner.views.anywhere import TwoConfig


@dataclass(frozen=True, kw_only=True)
class RotationConfig(ObjectiveConfig):
    takes = (TwoConfig,)
    temperature: Positive = 1.0
    """Of the softmax over the four turns."""


class Rotation(Objective[RotationConfig]):
    def __init__(self, config: RotationConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student, self.views = Network(encoder, nn.Linear(encoder.dim, 4)), kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        upright = self.views(batch, generator).large[:, 0]
        turns = torch.randint(4, (len(batch),), device=upright.device, generator=generator)
        turned = torch.stack([one.rot90(int(turn), (1, 2)) for one, turn in zip(upright, turns, strict=True)])
        features = self.student.encoder(turned)
        scores = self.student.project(features) / self.config.temperature
        return Outcome(F.cross_entropy(scores, turns, reduction="none"), features)
