"""The original experiment (section 2): the student agrees with the teacher, whose attention places the views.

With P_p the teacher's centred and sharpened distribution over K prototypes for the first view of a pair (X_G, of the left eye),
P_m that of the student for each other view (X_i, of the right eye), z the projections:

    loss = sum_i H(P_p(X_G), P_m(X_i)) + repulsion * sum_i log sum_{j != i} exp(cos(z_i, z_j) / repulsion_temperature)

for each pair. The second sum goes over its own views (as in the original experiment) or those of all other pairs of the batch;
docs/learning.md says what each was worth. The priority is KL(P_p || P_m): of the first term, what the student can still lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from learner.bounds import Momentum, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.centre import Centre, CentringConfig
from learner.parts.heads import PrototypeConfig
from learner.parts.network import Ema, Network
from learner.parts.repulsion import RepulsionConfig, mean_cosine, pairwise_cosines
from learner.parts.targets import DISTILLED_MEANINGS, target_gauges
from learner.views.guided import GuidedConfig
from learner.views.several import SEVERAL

_STREAM = {"centring": "sinkhorn", "repelled_by": "pairs", "repulsion": 0.2, "repulsion_temperature": 0.1}
"""The numbers of the original experiment that left small networks below random in k-NN, replaced (`docs/learning.md`)."""
_SIZES = {"prototypes": 256, "hidden": 256, "bottleneck": 64}
_SMALL = {**GuidedConfig.presets["cpu"], **_SIZES, "teacher_momentum": 0.99, "student_temperature": 0.1}


@dataclass(frozen=True, kw_only=True)
class BabyAgentConfig(CentringConfig, RepulsionConfig, PrototypeConfig, ObjectiveConfig, GuidedConfig):
    """The numbers of the original experiment where it gives them; `docs/log.md` says what other values do."""

    name = "babyagent"
    takes = SEVERAL
    presets = {"cpu": {**_STREAM, **_SMALL}, "gpu": _STREAM}

    decay_biases: bool = True
    teacher_momentum: Momentum = 0.996
    """alpha: teacher <- alpha * teacher + (1 - alpha) * student after each step."""
    student_temperature: Positive = 0.05
    """tau_m, of the softmax of the student."""


class BabyAgent(Objective[BabyAgentConfig]):
    """The objective with its student, its EMA teacher and its centre."""

    meanings = DISTILLED_MEANINGS
    shared_statistics = "Sinkhorn's targets are those of the whole batch"

    def __init__(self, config: BabyAgentConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        config.require_crops(kit.views_config.count - 1)
        encoder = kit.encoder()
        self.student = Network(encoder, config.projector(encoder.dim))
        self.teacher = Ema(self.student, config.teacher_momentum)
        self.views, self.centre = kit.views(self.teacher.encoder), Centre(config.prototypes, config)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return losses and priority of each pair by the formula of this module."""
        views = self.views(batch, generator)
        targets = self.centre.targets(self.teacher(views.large[:, 0])[1])
        features = views.rest.through(self.student.encoder)
        projections, logits = self.student.project(features)
        log_student = (logits / self.config.student_temperature).log_softmax(-1)
        target = collectives.own_rows(targets)
        cross_entropy, entropy = -(target[:, None] * log_student).sum(-1), torch.special.entr(target).sum(-1)
        cosines = pairwise_cosines(projections)
        losses = cross_entropy.sum(1) + self.config.repelled(projections, cosines)
        kl = (cross_entropy.mean(1) - entropy).detach().clamp_min(0)  # rounding may bring it below 0
        gauges = {"kl": kl.mean(), "crop_cosine": mean_cosine(cosines), **target_gauges(targets, entropy, kl)}
        return Outcome(losses, features[:, 0], kl, gauges=gauges)
