"""The objective of the original experiment (section 2): the student agrees with the teacher, whose attention places the views.

Views X, student and teacher are those of `learner.objectives.guided`. With P_p the teacher's centred and sharpened distribution
over K prototypes, P_m that of the student, z the projections:

    loss = sum_i H(P_p(X_G), P_m(X_i)) + repulsion * sum_i log sum_{j != i} exp(cos(z_i, z_j) / repulsion_temperature)

for each pair, before any mean. The second sum goes over the crops of the same pair (as in the original experiment) or, with
`repelled_by` "pairs", over those of all other pairs of the batch; `docs/learning.md` says what each was worth. The priority is
KL(P_p || P_m), the part of the first term that the student can still lower.
Shapes: B pairs, N crops, K prototypes, D width of a projection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, Tensor, nn

from learner.distributed import collectives
from learner.networks.encoder import Encoder, EncoderConfig
from learner.objectives.contract import Batch, Meaning, Outcome
from learner.objectives.guided import Guided, GuidedConfig, Network, require


@dataclass(frozen=True, kw_only=True)
class BabyAgentConfig(GuidedConfig):
    """The numbers of the original experiment where it gives them; `docs/log.md` says what other values do."""

    name: ClassVar[str] = "babyagent"

    prototypes: int = 4096
    """K, the number of prototypes."""
    hidden: int = 2048
    """Width of the hidden layers of the projector."""
    bottleneck: int = 256
    """Width of a projection."""
    student_temperature: float = 0.05
    """tau_m, of the softmax of the student."""
    teacher_temperature: float = 0.02
    """tau_p, of the softmax of the teacher; a lower one sharpens."""
    centring: Literal["ema", "sinkhorn"] = "ema"
    """Method that prevents one prototype from taking all pairs: an EMA of the mean logits (original experiment), or
    Sinkhorn-Knopp."""
    centre_momentum: float = 0.9
    """EMA rate of the centre."""
    repulsion: float = 0.1
    """lambda, the weight of the term that pushes crops apart."""
    repelled_by: Literal["crops", "pairs"] = "crops"
    """The crops from which a crop is repelled: others of the same pair (original experiment), or those of all other pairs of
    the batch."""
    repulsion_temperature: float = 0.05
    """tau of that term."""

    def __post_init__(self) -> None:
        super().__post_init__()
        repel_each_other = self.repelled_by == "crops" and self.repulsion != 0
        temperatures = (self.student_temperature, self.teacher_temperature, self.repulsion_temperature)
        require(
            {
                "repelled_by must be crops or pairs": self.repelled_by in ("crops", "pairs"),
                "crops must be at least 2 to repel each other": self.crops >= 2 or not repel_each_other,
                "repulsion must be at least 0": self.repulsion >= 0,
                "temperatures must be above 0": all(temperature > 0 for temperature in temperatures),
                "widths must be at least 1": min(self.hidden, self.bottleneck) >= 1,
                "centring must be ema or sinkhorn": self.centring in ("ema", "sinkhorn"),
                "centre_momentum must be in [0, 1)": 0 <= self.centre_momentum < 1,
                "prototypes must be at least 2": self.prototypes >= 2,
            }
        )

    def build(self, encoder: EncoderConfig) -> BabyAgent:
        """See ObjectiveConfig."""
        return BabyAgent(encoder, self)


class PrototypeProjector(nn.Module):
    """Maps features by three layers to a unit vector, the projection, and to its cosines with K unit prototypes.

    See Caron et al. 2021 (DINO), appendix C.
    """

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.prototypes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features, float [B, dim], to the projection [B, bottleneck] and logits [B, K], cosines in [-1, 1]."""
        projection = F.normalize(self.mlp(features), dim=-1)
        return projection, projection @ F.normalize(self.prototypes, dim=-1).T


class BabyAgent(Guided):
    """The objective with its student, its EMA teacher and its centre."""

    meanings: ClassVar[Mapping[str, Meaning]] = {
        "kl": Meaning(
            "nats", "Mean KL of the student's answer from the teacher's target: what the reservoir ranks by."
        ),
        "teacher_entropy": Meaning("nats", "Mean entropy of the teacher's target, 0 to ln of the prototypes."),
        "prototypes_in_use": Meaning("", "Perplexity of the batch's mean target, 1 to the number of prototypes."),
        "crop_cosine": Meaning("", "Mean cosine between the crops of a pair, 1 where they are one point."),
        "teacher_information": Meaning("ratio", "What a target tells about its pair, of the most there can be."),
        "student_information": Meaning("ratio", "What of it the student knows; near 0 it answers alike to all."),
    }
    config: BabyAgentConfig
    centre: Tensor

    def __init__(self, encoder: EncoderConfig, config: BabyAgentConfig) -> None:
        backbone = Encoder(encoder)
        projector = PrototypeProjector(backbone.dim, config.hidden, config.bottleneck, config.prototypes)
        super().__init__(Network(backbone, projector), config)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self._seen_mean = self.centre.clone()

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return losses and priority of each pair by the formula of this module."""
        view = self.look(batch, generator)
        count, crops = view.student_views.shape[:2]
        with torch.no_grad():
            # Centring is over the whole batch, of which this process has a part.
            teacher_logits = collectives.all_rows(self.teacher(view.teacher_view)[1])
            targets = self.target(teacher_logits)
            target = collectives.own_rows(targets)
            self._seen_mean = teacher_logits.mean(0)
        projection, logits = self.student(view.student_views.flatten(0, 1))
        log_student = F.log_softmax(logits / self.config.student_temperature, -1).view(count, crops, -1)
        cross_entropy = -(target[:, None] * log_student).sum(-1)
        entropy = torch.special.entr(target).sum(-1)
        projection = projection.view(count, crops, -1)
        cosines = pairwise_cosines(projection)
        losses = cross_entropy.sum(1)
        if self.config.repulsion:
            losses = losses + self.config.repulsion * self._repulsion(projection, cosines)
        kl = (cross_entropy.mean(1) - entropy).detach().clamp_min(0)  # rounding may bring it below 0
        return Outcome(losses, kl, self.gauges(targets, entropy, kl, cosines.detach()))

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
        """Return the gauges, which show a collapsing teacher; the loss does not (`learner.guard` explains the informations).

        target: [B, K]; entropy, kl: [B]; cosines: [B, N, N].
        """
        spread = torch.special.entr(target.mean(0)).sum()
        information, largest = spread - entropy.mean(), math.log(max(2, min(target.shape)))
        count = cosines.shape[-1]
        off_diagonal = (cosines.sum((-2, -1)) - count) / max(count * (count - 1), 1)
        return {
            "kl": kl.mean(),
            "teacher_entropy": entropy.mean(),
            "prototypes_in_use": spread.exp(),
            "crop_cosine": off_diagonal.mean(),
            "teacher_information": information / largest,
            "student_information": (information - kl.mean()) / largest,
        }


def pairwise_cosines(projections: Tensor) -> Tensor:
    """Return the cosines between the unit projections of the crops of each pair: [B, N, D] to [B, N, N]."""
    with torch.autocast(projections.device.type, enabled=False):  # a small temperature divides them next
        return projections @ projections.transpose(-2, -1)


def repulsion(cosines: Tensor, temperature: float) -> Tensor:
    """Return sum_i log sum_{j != i} exp(cos(z_i, z_j) / temperature): [B, N, N] to [B]."""
    itself = torch.eye(cosines.shape[-1], dtype=torch.bool, device=cosines.device)
    return (cosines / temperature).masked_fill(itself, -torch.inf).logsumexp(-1).sum(-1)


def repulsion_from_others(projections: Tensor, all_projections: Tensor, own: Tensor, temperature: float) -> Tensor:
    """Return sum_i log sum_{j of another pair} exp(cos(z_i, z_j) / temperature): [B].

    projections: [B, N, D] of this process. all_projections: [M, N, D] of all. own: int [B], the position of each pair among all.
    This is what InfoNCE lowers beside the cosine with the own key (van den Oord et al. 2018, equation 4; Wang and Isola 2020,
    uniformity). The others have no gradient, so that several processes give the same as one. Projections that are not finite
    are left out, so that a bad pair spoils its own loss only.
    """
    others = all_projections.flatten(0, 1)
    broken = ~others.isfinite().all(-1)
    with torch.autocast(projections.device.type, enabled=False):
        cosines = projections @ others.nan_to_num(0.0, 0.0, 0.0).T
    mine = F.one_hot(own, len(all_projections)).bool().repeat_interleave(all_projections.shape[1], 1)
    return (cosines / temperature).masked_fill((mine | broken)[:, None], -torch.inf).logsumexp(-1).sum(-1)


def sinkhorn(scores: Tensor, rounds: int = 3) -> Tensor:
    """Spread a batch evenly over the prototypes (Caron et al. 2020, SwAV, section 3.1): scores [B, K] to rows that sum to 1.

    It normalises in turn all prototypes to the same mass and all pairs to the same mass, in log space so that nothing overflows.
    """
    for _ in range(rounds):
        scores = scores - scores.logsumexp(0, keepdim=True)
        scores = scores - scores.logsumexp(1, keepdim=True)
    return scores.exp()
