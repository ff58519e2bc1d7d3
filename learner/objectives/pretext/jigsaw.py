"""Jigsaw: in which order do the tiles of a crop lie? (Noroozi and Favaro 2016)

All tiles go through the encoder one by one, and a linear classifier of all their features guesses which permutation of a fixed
set they are in; the paper has a hidden layer between. The set has permutations that differ as much as possible (the paper's
algorithm); a grid of 2 has only 24.

Each tile is scaled to its own mean and deviation, and lies at a random place in its cell, so that neither light nor lines that go
on in the next tile tell the order, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from learner.bounds import Count
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.objectives.pretext.permutations import far_permutations, ranks
from learner.parts.heads import Classifier
from learner.parts.network import Network
from learner.views.tiles import TiledViews, TilesConfig


@dataclass(frozen=True, kw_only=True)
class JigsawConfig(ObjectiveConfig):
    """The authors' code has 1000 permutations; Kolesnikov et al. 2019 take 100, as here."""

    name = "jigsaw"
    takes = (TilesConfig,)

    permutations: Count = 100
    """Permutations in the set, where the grid has as many."""


class Jigsaw(Objective[JigsawConfig]):
    """Encoder and classifier, and no other state: the set follows from the settings."""

    meanings = {"right": Meaning("ratio", "Guesses that were right.")}

    def __init__(self, config: JigsawConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        assert isinstance(kit.views_config, TilesConfig)
        tiles = kit.views_config.grid**2
        self.register_buffer("orders", far_permutations(tiles, config.permutations), persistent=False)
        self.student = Network(encoder, nn.Identity())
        self.classifier = Classifier(encoder.dim, len(self.orders), views=tiles)
        self.views = kit.views(encoder)

    orders: Tensor

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the cross-entropy of the permutation of each pair's tiles."""
        views = self.views(batch, generator)
        assert isinstance(views, TiledViews)
        # The random order of the views chooses the permutation, so that a pair's loss does not depend on its place in the batch.
        labels = ranks(views.places, len(self.orders))
        order = views.places.argsort(1).gather(1, self.orders[labels])
        tiles = views.small[torch.arange(len(order), device=order.device)[:, None], order]
        deviation, mean = torch.std_mean(tiles, (-3, -2, -1), keepdim=True)
        scaled = ((tiles - mean) / (4 * deviation + 1e-3) + 0.5).clamp(0, 1)  # two deviations to either side remain
        features = self.student.encoder(scaled.flatten(0, 1)).view(*order.shape, -1)
        losses, is_right = self.classifier(features, labels)
        return Outcome(losses, features[:, 0], gauges={"right": is_right.float().mean()})
