"""CPC over time: the next pictures are found from the last ones (van den Oord et al. 2018, sections 2.2 and 2.3).

Each picture has its projection z. A GRU reads `past` of them to the context c. A linear layer W_k for each distance k guesses the
picture k later, which has to be found among all pictures of the batch, those of the same clip too:

    loss = mean over the distances k of InfoNCE(W_k c, z_{t+k})

The paper has products of any size, a GRU over the whole past, and for speech 12 distances and negatives of other times; here they
are cosines with a temperature, as in `cpc`, and one eye is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, nn

from learner.bounds import Count, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import UnitProjector
from learner.parts.losses import info_nce
from learner.parts.network import Network
from learner.parts.windows import USABLE, mean_of, spread
from learner.views.clips.steady import EyesConfig, SteadyConfig


@dataclass(frozen=True, kw_only=True)
class TimeCPCConfig(ObjectiveConfig):
    """Sizes as of `cpc`, for short clips."""

    name = "timecpc"
    takes = (EyesConfig, SteadyConfig)
    clip = 8
    presets = {"cpu": {"hidden": 256, "projection": 64}}

    hidden: Count = 2048
    """Width of the hidden layer of the projector."""
    projection: Count = 256
    """Width of a projection, and of the context."""
    past: Count = 3
    """Pictures that the context is made of."""
    steps: Count = 2
    """Pictures after them that are guessed."""
    temperature: Positive = 0.1
    """Temperature of the softmax over the pictures of the batch."""


class TimeCPC(Objective[TimeCPCConfig]):
    """Encoder, context and guesses, and no other state."""

    meanings = {"right": Meaning("ratio", "Guesses that were right."), **USABLE}

    def __init__(self, config: TimeCPCConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder, width = kit.encoder(), config.projection
        self.student = Network(encoder, UnitProjector(encoder.dim, config.hidden, width))
        self.context = nn.GRUCell(width, width)
        self.guesses = nn.ModuleList(nn.Linear(width, width) for _ in range(config.steps))
        self.views, self.window = kit.views(encoder), config.past + config.steps

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the mean InfoNCE of the windows of each pair."""
        windows = batch.windows(self.window)
        features = self.student.encoder(self.views(batch, generator).large[:, 0])
        rows = self.student.project(features)
        with torch.autocast(rows.device.type, enabled=False):
            context = rows.new_zeros(len(windows), rows.shape[1])
            for column in windows[:, : self.config.past].unbind(1):
                context = self.context(rows[column], context)
            queries = torch.stack([F.normalize(guess(context), dim=-1) for guess in self.guesses], 1)
        own = (collectives.number() * len(batch) + windows[:, self.config.past :]).flatten()
        keys = collectives.everyone(rows)
        terms, cosines = info_nce(queries.flatten(0, 1), keys, own, self.config.temperature)
        losses, gauges = spread(terms.view(-1, self.config.steps).mean(1), windows, features)
        return Outcome(losses, features, gauges={"right": mean_of(cosines.argmax(1) == own), **gauges})
