"""CC-VAE: a variational autoencoder that is shown where the clip began (Nair et al. 2019, 1910.11670).

Beside the embedding z of a picture the decoder sees c, an embedding of the first picture of its clip. So z need not say what
stays the same, such as the place and the things in it, but what has changed since. A linear layer that sees the features of the
picture and c makes the mean and variance of z. The loss stands in `learner.objectives.autoencoders.rebuilt`: a z from its prior,
with c, is a goal that may be reached from the first picture. The paper has one more term: a second decoder rebuilds the first
picture from c alone. Its code has an encoder of its own for c, one for z that sees both pictures at once, a batch norm and
dropout; here both pictures go through the one encoder that is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, autocast, nn

from learner.bounds import Count, NotNegative
from learner.objectives.autoencoders.decoders import DECODERS
from learner.objectives.autoencoders.rebuilt import Rebuilt, RebuiltConfig
from learner.objectives.contract import Batch, Kit
from learner.parts.network import Network


@dataclass(frozen=True, kw_only=True)
class CCVAEConfig(RebuiltConfig):
    """The embeddings and the decoder; the encoder is the backbone."""

    name = "ccvae"
    clip = 8
    presets = {"cpu": {"embedding": 64, "context": 64, "width": 64}}

    beta: NotNegative = 1.0
    """Weight of the divergence from a standard normal distribution; at 0 nothing is drawn."""
    context: Count = 256
    """Width of c, the embedding of the first picture."""


class CCVAE(Rebuilt[CCVAEConfig]):
    """Encoder and decoder, and no other state."""

    def __init__(self, config: CCVAEConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder, side = kit.encoder(), kit.views_config.probe_size
        self.context = nn.Linear(encoder.dim, config.context)
        self.student = Network(encoder, nn.Linear(encoder.dim + config.context, config.numbers))
        self.decoder = DECODERS[config.decoder](config.embedding + config.context, config.width, side)
        self.views = kit.views(encoder)

    def rebuilt(self, features: Tensor, batch: Batch, generator: Generator) -> tuple[Tensor, Tensor]:
        """See Rebuilt."""
        with autocast(features.device.type, enabled=False):
            features = features.float()
            context = self.context(features)[batch.starts()]
            z, divergence = self.embedded(self.student.project(torch.cat([features, context], 1)), generator)
            return self.decoder(torch.cat([z, context], 1)), divergence
