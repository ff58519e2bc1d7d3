"""BiGAN: an encoder turns images into codes, a generator codes into images, and neither is told apart (Donahue et al. 2017).

With x an image made small, z a code drawn from a normal distribution, E the encoder with a linear layer, G the generator, and D
the discriminator of pairs of image and code (section 3):

    max_D min_{E, G}: log D(x, E(x)) + log(1 - D(G(z), z))

D learns by the same step: its gradient is reversed on its way to E and G. Where all are perfect, E is the inverse of G. In the
authors' code z is uniform, E and G lower the loss that D has with swapped labels, and G and D have convolutions, except for
digits; here both are perceptrons over images of few pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, Tensor, nn

from learner.bounds import Bound, Count
from learner.distributed import collectives
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import mlp
from learner.parts.network import Network
from learner.parts.reversal import reversed_gradient
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class BiGANConfig(ObjectiveConfig):
    """Codes as wide as the paper's for small images."""

    name = "bigan"
    takes = SEVERAL
    presets = {"cpu": {"hidden": 256}}

    hidden: Count = 1024
    """Width of the hidden layers of generator and discriminator."""
    code: Count = 50
    """Width of a code."""
    side: Annotated[int, Bound(ge=4, le=64)] = 16
    """Side in pixels of the images that are generated and judged."""


class BiGAN(Objective[BiGANConfig]):
    """Encoder, generator and discriminator, and no other state."""

    meanings = {"told_apart": Meaning("ratio", "Guesses of the discriminator that are right.")}

    def __init__(self, config: BiGANConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder, values = kit.encoder(), 3 * config.side**2
        self.student = Network(encoder, nn.Linear(encoder.dim, config.code))
        self.generator = mlp(config.code, config.hidden, config.hidden, values)
        self.discriminator = mlp(values + config.code, config.hidden, config.hidden, 1)
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return how well each pair's image and code are told from generated ones, and the same of those as the shared term."""
        images = self.views(batch, generator).large[:, 0]
        features = self.student.encoder(images)
        codes = torch.randn(
            collectives.count() * len(batch), self.config.code, device=images.device, generator=generator
        )
        with torch.autocast(images.device.type, enabled=False):
            codes = collectives.own_rows(codes).to(features.dtype if features.dtype == torch.float64 else torch.float32)
            small = F.interpolate(images, (self.config.side,) * 2, mode="bilinear", antialias=True).flatten(1)
            made = self.generator(codes).sigmoid()
            real = self._odds(small, reversed_gradient(self.student.project(features), 1.0))
            false = self._odds(reversed_gradient(made, 1.0), codes)
        right = collectives.shared_mean((real > 0).float().mean() + (false < 0).float().mean()) / 2
        shared = collectives.shared_mean(F.softplus(false).mean())
        return Outcome(F.softplus(-real), features, shared=shared, gauges={"told_apart": right.detach()})

    def _odds(self, images: Tensor, codes: Tensor) -> Tensor:
        """Return the log odds that images [B, P] and codes [B, Z] are a true image and its code, [B]."""
        odds: Tensor = self.discriminator(torch.cat([images, codes], 1))[:, 0]
        return odds
