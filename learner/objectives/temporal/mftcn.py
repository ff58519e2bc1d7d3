"""Multi-frame TCN: what the left eye has just seen finds what the right one has seen (Dwibedi et al. 2018).

The features of `frames` pictures in a row, of one eye, are joined to one projection f, which so can know velocities. It extends
TCN (Sermanet et al. 2018) with the n-pairs loss (Sohn 2016). Over all windows j of the batch:

    loss_i = -log( exp(f_i left . f_i right) / sum_j exp(f_i left . f_j right) ) + weight / 4 * (|f_i left|^2 + |f_i right|^2)

Windows of the same clip that end fewer than `apart` pictures from i are no negatives. The paper joins maps by convolutions over
time, with a stride between the frames, and takes negatives from two stretches that lie far apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator

from learner.bounds import Count, NotNegative
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import mlp
from learner.parts.network import Network
from learner.parts.windows import USABLE, mean_of, spread
from learner.views.clips.steady import EyesConfig, SteadyConfig


@dataclass(frozen=True, kw_only=True)
class MultiFrameConfig(ObjectiveConfig):
    """The width of TCN's code, and the weight of the n-pairs loss that it calls."""

    name = "mftcn"
    takes = (EyesConfig, SteadyConfig)
    clip = 8
    presets = {"cpu": {"hidden": 256}}

    hidden: Count = 2048
    """Width of the hidden layer that joins the frames."""
    projection: Count = 32
    """Width of a projection."""
    frames: Count = 4
    """Pictures in a row that are seen at once."""
    apart: Count = 4
    """Two windows of a clip that end fewer pictures apart are not negatives of each other."""
    weight: NotNegative = 0.002
    """Weight of the squared lengths, which keeps the products small."""


class MultiFrame(Objective[MultiFrameConfig]):
    """One network and no other state."""

    meanings = {"right": Meaning("ratio", "Windows that were found."), **USABLE}

    def __init__(self, config: MultiFrameConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, mlp(config.frames * encoder.dim, config.hidden, config.projection))
        self.views, self.window = kit.views(encoder), config.frames

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the loss of each pair by the windows that it is in."""
        windows, clips = batch.windows(self.window), batch.clip_numbers()
        features = self.views(batch, generator).through(self.student.encoder)
        left, right = self.student.project(features[windows].transpose(1, 2).flatten(2)).unbind(1)
        last, rows = windows[:, -1:], torch.arange(len(batch), device=clips.device)
        ends = left.new_full((len(batch), left.shape[1]), torch.nan).index_copy(0, last[:, 0], right)
        keys = collectives.everyone(ends)
        first = collectives.number() * len(batch)
        is_left_out = (~keys.isfinite().all(-1)).repeat(len(last), 1)
        near = (clips[last] == clips) & ((last - rows).abs() < self.config.apart) & (last != rows)
        is_left_out[:, first : first + len(batch)] |= near
        with torch.autocast(left.device.type, enabled=False):
            products = (left @ keys.nan_to_num(0.0, 0.0, 0.0).T).masked_fill(is_left_out, -torch.inf)
        squares, own = (left.square() + right.square()).sum(-1) / 4, first + last[:, 0]
        terms = F.cross_entropy(products, own, reduction="none") + self.config.weight * squares
        losses, gauges = spread(terms, windows, features[:, 0])
        return Outcome(losses, features[:, 0], gauges={"right": mean_of(products.argmax(1) == own), **gauges})
