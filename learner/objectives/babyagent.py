"""The objective of the original experiment (section 2): the student agrees with the teacher, whose attention places the views.

The teacher's attention places the views (`learner.views.guided`): X_G of the left eye for the teacher, X_i of the right eye for
the student. With P_p the teacher's centred and sharpened distribution over K prototypes, P_m that of the student, z the
projections:

    loss = sum_i H(P_p(X_G), P_m(X_i)) + repulsion * sum_i log sum_{j != i} exp(cos(z_i, z_j) / repulsion_temperature)

for each pair, before any mean. The second sum goes over the crops of the same pair (as in the original experiment) or, with
`repelled_by` "pairs", over those of all other pairs of the batch; `docs/learning.md` says what each was worth. The priority is
KL(P_p || P_m), the part of the first term that the student can still lower.
Shapes: B pairs, N crops, K prototypes, D width of a projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, Tensor

from learner.bounds import Bound, Count, Momentum, NotNegative, Positive
from learner.distributed import collectives
from learner.errors import SettingsError
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import PrototypeProjector
from learner.parts.losses import pairwise_cosines, repulsion, repulsion_from_others, sinkhorn
from learner.parts.network import Ema, Network
from learner.parts.targets import TARGET_MEANINGS, target_gauges
from learner.views.guided import GuidedConfig

_STREAM = {"centring": "sinkhorn", "repelled_by": "pairs", "repulsion": 0.2, "repulsion_temperature": 0.1}
"""The numbers of the original experiment that left small networks below random in k-NN, replaced (`docs/learning.md`)."""


@dataclass(frozen=True, kw_only=True)
class BabyAgentConfig(ObjectiveConfig, GuidedConfig):
    """The numbers of the original experiment where it gives them; `docs/log.md` says what other values do.

    Its views are part of it, as in version 0.1.0.
    """

    name: ClassVar[str] = "babyagent"
    label: ClassVar[str] = "objective"
    takes = (GuidedConfig,)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {
            **GuidedConfig.presets["cpu"],
            **_STREAM,
            "teacher_momentum": 0.99,
            "prototypes": 256,
            "hidden": 256,
            "bottleneck": 64,
            "student_temperature": 0.1,
        },
        "gpu": _STREAM,
    }

    decay_biases: bool = True
    teacher_momentum: Momentum = 0.996
    """alpha: teacher <- alpha * teacher + (1 - alpha) * student after each step."""
    prototypes: Annotated[int, Bound(ge=2)] = 4096
    """K, the number of prototypes."""
    hidden: Count = 2048
    """Width of the hidden layers of the projector."""
    bottleneck: Count = 256
    """Width of a projection."""
    student_temperature: Positive = 0.05
    """tau_m, of the softmax of the student."""
    teacher_temperature: Positive = 0.02
    """tau_p, of the softmax of the teacher; a lower one sharpens."""
    centring: Literal["ema", "sinkhorn"] = "ema"
    """Method that prevents one prototype from taking all pairs: an EMA of the mean logits (original experiment), or
    Sinkhorn-Knopp."""
    centre_momentum: Momentum = 0.9
    """EMA rate of the centre."""
    repulsion: NotNegative = 0.1
    """lambda, the weight of the term that pushes crops apart."""
    repelled_by: Literal["crops", "pairs"] = "crops"
    """The crops from which a crop is repelled: others of the same pair (original experiment), or those of all other pairs of
    the batch."""
    repulsion_temperature: Positive = 0.05
    """tau of that term."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repelled_by == "crops" and self.repulsion and self.crops < 2:
            raise SettingsError(f"objective: crops must be at least 2 to repel each other, got {self.crops}")


class BabyAgent(Objective[BabyAgentConfig]):
    """The objective with its student, its EMA teacher and its centre."""

    meanings: ClassVar[Mapping[str, Meaning]] = {
        "kl": Meaning(
            "nats", "Mean KL of the student's answer from the teacher's target: what the reservoir ranks by."
        ),
        "crop_cosine": Meaning("", "Mean cosine between the crops of a pair, 1 where they are one point."),
        **TARGET_MEANINGS,
    }
    shared_statistics = "Sinkhorn's targets are those of the whole batch"
    centre: Tensor

    def __init__(self, config: BabyAgentConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        projector = PrototypeProjector(encoder.dim, config.hidden, config.bottleneck, config.prototypes)
        self.student = Network(encoder, projector)
        self.teacher = Ema(self.student, config.teacher_momentum)
        self.views = kit.views(self.teacher.encoder)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self._seen_mean = self.centre.clone()

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return losses and priority of each pair by the formula of this module."""
        views = self.views(batch, generator)
        count, crops = views.small.shape[:2]
        with torch.no_grad():
            # Centring is over the whole batch, of which this process has a part.
            teacher_logits = collectives.all_rows(self.teacher(views.large[:, 0])[1])
            targets = self.target(teacher_logits)
            target = collectives.own_rows(targets)
            self._seen_mean = teacher_logits.mean(0)
        features = self.student.encoder(views.small.flatten(0, 1))
        projection, logits = self.student.project(features)
        log_student = F.log_softmax(logits / self.config.student_temperature, -1).view(count, crops, -1)
        cross_entropy = -(target[:, None] * log_student).sum(-1)
        entropy = torch.special.entr(target).sum(-1)
        projection = projection.view(count, crops, -1)
        cosines = pairwise_cosines(projection)
        losses = cross_entropy.sum(1)
        if self.config.repulsion:
            losses = losses + self.config.repulsion * self._repulsion(projection, cosines)
        kl = (cross_entropy.mean(1) - entropy).detach().clamp_min(0)  # rounding may bring it below 0
        gauges = self.gauges(targets, entropy, kl, cosines.detach())
        return Outcome(losses, features.view(count, crops, -1)[:, 0], kl, gauges=gauges)

    def _repulsion(self, projections: Tensor, cosines: Tensor) -> Tensor:
        """Return the second term, [B], from projections [B, N, D] and the cosines in each pair [B, N, N]."""
        if self.config.repelled_by == "crops":
            return repulsion(cosines, self.config.repulsion_temperature)
        all_projections = collectives.all_rows(projections.detach())
        own = collectives.own_rows(torch.arange(len(all_projections), device=all_projections.device))
        return repulsion_from_others(projections, all_projections, own, self.config.repulsion_temperature)

    def target(self, logits: Tensor) -> Tensor:
        """Return P_p, [B, K], the centred and sharpened logits [B, K] of the teacher; each row sums to 1."""
        if self.config.centring == "sinkhorn":
            return sinkhorn(logits / self.config.teacher_temperature)
        return F.softmax((logits - self.centre) / self.config.teacher_temperature, -1)

    @torch.no_grad()
    def after_step(self) -> None:
        """theta_p <- alpha theta_p + (1 - alpha) theta_m; c <- m c + (1 - m) mean of the teacher's logits.

        The centre waits for the step too, so that a refused step leaves no trace.
        """
        self.centre.lerp_(self._seen_mean, 1 - self.config.centre_momentum)
        super().after_step()

    def gauges(self, target: Tensor, entropy: Tensor, kl: Tensor, cosines: Tensor) -> dict[str, Tensor]:
        """Return the gauges. target: [B, K]; entropy, kl: [B]; cosines of the crops of a pair: [B, N, N]."""
        count = cosines.shape[-1]
        off_diagonal = (cosines.sum((-2, -1)) - count) / max(count * (count - 1), 1)
        return {"kl": kl.mean(), "crop_cosine": off_diagonal.mean(), **target_gauges(target, entropy, kl)}
