"""Relative position: where does one tile lie as seen from another one? (Doersch et al. 2015)

Two tiles of a crop go through the encoder, and a linear classifier guesses the offset from the first to the second one, in cells
of the grid: 8 classes in a grid of 2, as in the paper, and (2 n - 1)^2 - 1 in one of n. The paper has hidden layers between.

Two shortcuts are closed as in the paper. Tiles lie at random places in their cells, so that no line goes on in the next tile; the
paper's also have gaps. Colours fringe towards the border of an image (chromatic aberration), which would tell where a tile was:
`grey` removes them; the authors' code drops two channels of three.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, nn

from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import Classifier
from learner.parts.network import Network
from learner.views.augment import grey
from learner.views.tiles import TiledViews, TilesConfig


@dataclass(frozen=True, kw_only=True)
class PositionConfig(ObjectiveConfig):
    """The guard of the paper that costs nothing on a network that sees grey images anyway."""

    name = "position"
    takes = (TilesConfig,)

    grey: bool = True
    """Whether tiles lose their colours."""


class Position(Objective[PositionConfig]):
    """Encoder and classifier, and no other state."""

    meanings = {"right": Meaning("ratio", "Guesses that were right.")}

    def __init__(self, config: PositionConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        assert isinstance(kit.views_config, TilesConfig)
        self.grid = kit.views_config.grid
        self.student = Network(encoder, nn.Identity())
        self.classifier = Classifier(encoder.dim, (2 * self.grid - 1) ** 2, views=2)
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the cross-entropy of each pair's offset from its first tile to its second one."""
        views = self.views(batch, generator)
        assert isinstance(views, TiledViews)
        tiles = grey(views.small[:, :2]) if self.config.grey else views.small[:, :2]
        features = self.student.encoder(tiles.flatten(0, 1)).view(len(tiles), 2, -1)
        row, column = (
            part[:, 1] - part[:, 0] + self.grid - 1 for part in (views.places // self.grid, views.places % self.grid)
        )
        losses, is_right = self.classifier(features, row * (2 * self.grid - 1) + column)
        return Outcome(losses, features[:, 0], gauges={"right": is_right.float().mean()})
