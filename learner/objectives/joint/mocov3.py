"""MoCo v3: a prediction of each view has to find the key of another view of its pair in the batch (Chen et al. 2021).

With q_iv the unit prediction of view v of pair i, and k_jg the unit key of the large view g of pair j by a momentum copy, without
the predictor (section 3, algorithm 1; the factor is the reference's):

    loss_i = 2 temperature * mean over v and g != v of -log( exp(q_iv k_ig / temperature) / sum_j exp(q_iv k_jg / temperature) )

The layer that embeds patches keeps its random start (section 4.2). The reference has projector 4096-4096-256, predictor 4096-256,
temperature 0.2, momentum 0.99 that rises to 1, AdamW at 1.5e-4 for 1024 images, and one more batch norm behind each of them.
`contrastive` has no predictor, and takes the keys of the first view only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator

from learner.bounds import Count, Momentum, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import BatchNorm, mlp
from learner.parts.losses import between_views, info_nce
from learner.parts.network import Ema, Network
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class MoCoV3Config(ObjectiveConfig):
    """The published numbers; the momentum is constant, because a stream has no end to raise it to."""

    name = "mocov3"
    takes = SEVERAL
    presets = {"cpu": {"hidden": 256, "projection": 64}}

    hidden: Count = 4096
    """Width of the hidden layers of projector and predictor."""
    projection: Count = 256
    """Width of a projection."""
    momentum: Momentum = 0.99
    """Of the copy that makes the keys, after each step."""
    temperature: Positive = 0.2
    """Temperature of the softmax over the keys of the batch."""
    freeze_patches: bool = True
    """Whether the layer that embeds patches keeps its random start, where a backbone has one."""


class MoCoV3(Objective[MoCoV3Config]):
    """The student with its predictor, and the copy that makes the keys."""

    meanings = {"found": Meaning("ratio", "Views whose nearest key is their own.")}
    shared_statistics = "projector and predictor have batch norms"

    def __init__(self, config: MoCoV3Config, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder, widths = kit.encoder(), (config.hidden, config.projection)
        if config.freeze_patches and (layer := getattr(getattr(encoder.backbone, "patch_embed", None), "proj", None)):
            layer.requires_grad_(False)
        self.student = Network(encoder, mlp(encoder.dim, config.hidden, *widths, norm=BatchNorm))
        self.predictor = mlp(config.projection, *widths, norm=BatchNorm)
        self.teacher = Ema(self.student, config.momentum)
        self.views = kit.views(self.teacher.encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the cross-entropy of each pair's own keys, with its factor."""
        views, temperature = self.views(batch, generator), self.config.temperature
        features = views.through(self.student.encoder)
        with torch.autocast(features.device.type, enabled=False):
            queries = F.normalize(self.predictor(self.student.project(features)), dim=-1)
        keys = collectives.all_rows(F.normalize(views.only_large.through(self.teacher), dim=-1))
        own = collectives.own_rows(torch.arange(len(keys), device=keys.device)).repeat_interleave(queries.shape[1])
        found = [info_nce(queries.flatten(0, 1), some, own, temperature) for some in keys.unbind(1)]
        terms = torch.stack([term.view(queries.shape[:2]) for term, _ in found], -1)
        right = torch.stack([(cosines.argmax(1) == own).view(queries.shape[:2]) for _, cosines in found], -1).float()
        return Outcome(
            2 * temperature * between_views(terms), features[:, 0], gauges={"found": between_views(right).mean()}
        )
