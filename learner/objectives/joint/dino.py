"""DINO: each view guesses what a momentum copy says of another, large view of its pair (Caron et al. 2021).

With s the cosines of a projection to K prototypes, P_g = softmax((s_g of the copy - centre) / teacher_temperature), and the
centre the running mean of the copy's cosines over the large views of all pairs (section 3.1, equations 1 to 4, with multi-crop):

    loss = mean over views v and large views g != v of H(P_g, softmax(s_v / student_temperature))

The reference has K = 65536, projector 2048-2048-256, temperatures 0.1 and 0.04, momentum 0.996 that rises to 1, centre momentum
0.9, AdamW at 5e-4 for 256 images, and a weight decay of 0.04 that rises to 0.4; it keeps the prototypes fixed for an epoch.
solo-learn has K = 4096 and momentum 0.9995 for CIFAR. Here all numbers are constant, and the prototypes learn at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from learner.bounds import Momentum, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.centre import Centre, CentringConfig
from learner.parts.heads import PrototypeConfig
from learner.parts.losses import divergence
from learner.parts.network import Ema, Network
from learner.parts.targets import TARGET_MEANINGS, target_gauges
from learner.views.several import MULTI_FIRST

_EVEN = {"centring": "sinkhorn", "teacher_temperature": 0.02}  # with a centre, targets became uniform (`docs/log.md`)


@dataclass(frozen=True, kw_only=True)
class DINOConfig(CentringConfig, PrototypeConfig, ObjectiveConfig):
    """The published numbers, with the prototypes of the small recipe; fewer of them for a CPU."""

    name = "dino"
    takes = MULTI_FIRST
    presets = {"cpu": {"hidden": 256, "bottleneck": 64, "prototypes": 256, "teacher_momentum": 0.99, **_EVEN}}

    teacher_momentum: Momentum = 0.996
    """Of the copy that makes the targets, after each step."""
    teacher_temperature: Positive = 0.04
    """Temperature of the softmax of the copy; a lower one sharpens."""
    student_temperature: Positive = 0.1
    """Temperature of the softmax of the student."""


class DINO(Objective[DINOConfig]):
    """The student, its copy and the centre."""

    meanings = TARGET_MEANINGS
    shared_statistics = "Sinkhorn's targets are those of the whole batch"

    def __init__(self, config: DINOConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, config.projector(encoder.dim))
        self.teacher = Ema(self.student, config.teacher_momentum)
        self.views, self.centre = kit.views(self.teacher.encoder), Centre(config.prototypes, config)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the cross-entropy of each pair's targets, and the KL as its priority."""
        views = self.views(batch, generator)
        said = views.only_large.through(lambda rgb: self.teacher(rgb)[1])
        targets = self.centre.targets(said.flatten(0, 1))
        features = views.through(self.student.encoder)
        scores = self.student.project(features)[1] / self.config.student_temperature
        losses, entropy, kl = divergence(collectives.own_rows(targets).view_as(said), scores.log_softmax(-1))
        return Outcome(losses, features[:, 0], kl, gauges=target_gauges(targets, entropy, kl))
