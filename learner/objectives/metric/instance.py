"""Instance discrimination: each view finds the row of its own pair in a bank of all pairs (Wu et al. 2018, section 3).

With z_v the unit projection of view v, f_1 ... f_n the rows of the bank, and f_i that of the pair (equation 2; section 3.3):

    loss_i = mean_v of -log( exp(z_v f_i / temperature) / sum_j exp(z_v f_j / temperature) ) + proximal * |z_v - f_i|^2

A pair that holds no row has the mean of its own views as f_i, which then becomes its row. The paper samples the sum over 1.3
million rows (NCE); a bank of a stream is small enough for all of them. Its code has no proximal term. Pairs are known by their
key in memory; the bank has a row for each key modulo its size, so it should be larger than the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator

from learner.bounds import Count, Momentum, NotNegative, Positive
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import UnitProjector
from learner.parts.network import Network
from learner.parts.queue import Bank
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class InstanceConfig(ObjectiveConfig):
    """The numbers of the published code, with a projector of one layer as there."""

    name = "instance"
    takes = SEVERAL
    presets = {"cpu": {"projection": 64, "rows": 4096}}

    projection: Count = 128
    """Width of a projection."""
    rows: Count = 65536
    """n, the rows of the bank."""
    row_momentum: Momentum = 0.5
    """Of the row of a pair that is seen again."""
    temperature: Positive = 0.07
    """Temperature of the softmax over the bank."""
    proximal: NotNegative = 0.0
    """Weight of the distance to the own row."""


class Instance(Objective[InstanceConfig]):
    """The student and the bank."""

    meanings = {
        "found": Meaning("ratio", "Views whose nearest row is that of their pair."),
        "held": Meaning("ratio", "Pairs of the batch that hold a row of the bank."),
    }

    def __init__(self, config: InstanceConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, UnitProjector(encoder.dim, None, config.projection))
        self.bank, self.views = Bank(config.rows, config.projection, config.row_momentum), kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the cross-entropy of each pair's own row, with the proximal term."""
        features = self.views(batch, generator).through(self.student.encoder)
        projections, keys = self.student.project(features), batch.numbers()
        mean = F.normalize(projections.detach().mean(1), dim=-1)
        self.bank.note(keys, mean)
        places, is_held = self.bank.places(keys)
        row = torch.where(is_held[:, None], self.bank.rows[places], mean)[:, None]
        with torch.autocast(features.device.type, enabled=False):
            own, others = (projections * row).sum(-1, keepdim=True), projections @ self.bank.rows.T
        itself = is_held[:, None] & (torch.arange(len(self.bank.rows), device=places.device) == places[:, None])
        others = others.masked_fill(itself[:, None], -torch.inf)
        logits = torch.cat([own, others], -1) / self.config.temperature
        losses = self.config.proximal * (projections - row).square().sum(-1) - F.log_softmax(logits, -1)[..., 0]
        found = (logits.detach().argmax(-1) == 0).float().mean()
        return Outcome(losses.mean(1), features[:, 0], gauges={"found": found, "held": is_held.float().mean()})
