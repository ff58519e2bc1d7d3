"""CPC on images: the rows of tiles below are found from the rows above them (van den Oord et al. 2018, section 3.2).

Each tile of a crop has its projection z. A perceptron makes the context c_r of the mean of a column down to row r. A linear layer
for each distance k guesses the tile k rows below, which has to be found among all tiles of the batch:

    loss = mean over columns, rows r and distances k of InfoNCE(W_k c_r, z_{r+k})

The paper has 7 x 7 tiles that overlap by half, a masked convolution as its context, and products of any size; here these are
cosines with a temperature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, nn

from learner.bounds import Count, Positive
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import UnitProjector, mlp
from learner.parts.losses import info_nce
from learner.parts.network import Network
from learner.views.tiles import TiledViews, TilesConfig


@dataclass(frozen=True, kw_only=True)
class CPCConfig(ObjectiveConfig):
    """Sizes of the small published recipes, with the temperature of the other contrastive objectives."""

    name = "cpc"
    takes = (TilesConfig,)
    presets = {"cpu": {"hidden": 256, "projection": 64}}

    hidden: Count = 2048
    """Width of the hidden layer of the projector."""
    projection: Count = 256
    """Width of a projection, and of the context."""
    temperature: Positive = 0.1
    """Temperature of the softmax over the tiles of the batch."""


class CPC(Objective[CPCConfig]):
    """Encoder, context and guesses, and no other state."""

    meanings = {"right": Meaning("ratio", "Guesses that were right.")}

    def __init__(self, config: CPCConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder, width = kit.encoder(), config.projection
        assert isinstance(kit.views_config, TilesConfig)
        self.grid = kit.views_config.grid
        self.student = Network(encoder, UnitProjector(encoder.dim, config.hidden, width))
        self.context = mlp(width, width, width)
        self.guesses = nn.ModuleList(nn.Linear(width, width) for _ in range(self.grid - 1))
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the mean InfoNCE of each pair's tiles."""
        views, grid = self.views(batch, generator), self.grid
        assert isinstance(views, TiledViews)
        features = self.student.encoder(views.small.flatten(0, 1)).view(*views.places.shape, -1)
        found = self.student.project(features)
        tiles = found.gather(1, views.places.argsort(1)[..., None].expand_as(found)).view(len(batch), grid, grid, -1)
        with torch.autocast(tiles.device.type, enabled=False):
            rows_read = torch.arange(1, grid + 1, device=tiles.device)[:, None, None]
            contexts = self.context(tiles.cumsum(1) / rows_read)
            asked = [F.normalize(guess(contexts[:, : -k - 1]), dim=-1) for k, guess in enumerate(self.guesses)]
        cells = torch.arange(grid * grid, device=tiles.device).view(grid, grid)
        below = torch.cat([cells[k + 1 :].flatten() for k in range(grid - 1)])
        queries = torch.cat([some.flatten(1, 2) for some in asked], 1)
        pairs = collectives.own_rows(torch.arange(collectives.count() * len(batch), device=tiles.device))
        own = pairs[:, None] * grid**2 + below
        keys = collectives.everyone(tiles.flatten(1, 2)).flatten(0, 1)
        losses, cosines = info_nce(queries.flatten(0, 1), keys, own.flatten(), self.config.temperature)
        right = (cosines.argmax(1) == own.flatten()).float().mean()
        return Outcome(losses.view(own.shape).mean(1), features[:, 0], gauges={"right": right})
