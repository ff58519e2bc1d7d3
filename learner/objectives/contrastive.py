"""InfoNCE between the eyes: a crop of the right eye has to find the left eye of its own pair among the left eyes of the batch.

The loss is NT-Xent (Chen et al. 2020, SimCLR, section 2.1). As in MoCo v3 (Chen et al. 2021, section 3), a momentum encoder
computes the keys, and the keys are those of the batch; there is no queue. It has one direction: the student's crops of the right
eye are the queries, the teacher's focused crops of the left eyes are the keys. With q_in the unit projection of crop n of pair i,
and k_j that of the teacher's crop of pair j:

    loss_i = mean_n -log( exp(q_in k_i / temperature) / sum_j exp(q_in k_j / temperature) )

The target is one-hot and has no entropy, so KL(target || student) is this cross-entropy, and the priority is the loss.
Shapes: B pairs, N crops, D width of a projection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, Tensor, nn

from learner.distributed import collectives
from learner.networks.encoder import Encoder, EncoderConfig
from learner.objectives.contract import Batch, Meaning, Outcome
from learner.objectives.guided import Guided, GuidedConfig, Network, require


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(GuidedConfig):
    """The temperature of MoCo v3, with the views of the original experiment."""

    name: ClassVar[str] = "contrastive"

    hidden: int = 2048
    """Width of the hidden layer of the projector."""
    projection: int = 256
    """D, the width of a projection."""
    temperature: float = 0.2
    """Temperature of the softmax over the batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            {
                "widths must be at least 1": min(self.hidden, self.projection) >= 1,
                "temperature must be above 0": self.temperature > 0,
            }
        )

    def build(self, encoder: EncoderConfig) -> Contrastive:
        """See ObjectiveConfig."""
        return Contrastive(encoder, self)


class Projector(nn.Module):
    """Maps features by two layers to a unit vector (SimCLR, section 2.1)."""

    def __init__(self, dim: int, hidden: int, projection: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, projection))

    def forward(self, features: Tensor) -> Tensor:
        """Map features, float [B, dim], to projections [B, D]."""
        return F.normalize(self.mlp(features), dim=-1)


class Contrastive(Guided):
    """The objective with its student and its EMA teacher; it has no other state."""

    meanings: ClassVar[Mapping[str, Meaning]] = {
        "kl": Meaning("nats", "Mean cross-entropy of the pair's own key: what the reservoir ranks by."),
        "found": Meaning("ratio", "Crops that found their own pair's left eye."),
        "eye_cosine": Meaning("", "Mean cosine of a crop and its own pair's left eye."),
        "student_information": Meaning("ratio", "What the student's answer tells about its pair, of ln of the batch."),
    }
    config: ContrastiveConfig

    def __init__(self, encoder: EncoderConfig, config: ContrastiveConfig) -> None:
        backbone = Encoder(encoder)
        super().__init__(Network(backbone, Projector(backbone.dim, config.hidden, config.projection)), config)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the losses of each pair by the formula of this module. The loss of a batch of one pair is 0."""
        view = self.look(batch, generator)
        count, crops = view.student_views.shape[:2]
        with torch.no_grad():
            keys = collectives.all_rows(self.teacher(view.teacher_view))  # negatives are those of the whole batch
        queries = self.student(view.student_views.flatten(0, 1))
        with torch.autocast(queries.device.type, enabled=False):
            cosines = queries @ keys.T
        own = collectives.own_rows(torch.arange(len(keys), device=cosines.device)).repeat_interleave(crops)
        cross_entropy = F.cross_entropy(cosines / self.config.temperature, own, reduction="none")
        losses = cross_entropy.view(count, crops).mean(1)
        priority = losses.detach()
        gauges = {
            "kl": priority.mean(),
            "found": (cosines.detach().argmax(1) == own).float().mean(),
            "eye_cosine": cosines.detach().gather(1, own[:, None]).mean(),
            "student_information": 1 - priority.mean() / math.log(max(2, count)),
        }
        return Outcome(losses, priority, gauges)
