"""Autoencoder: picture -> embedding -> picture, as the live-video experiment learns, or a beta-VAE (Higgins et al. 2017).

A linear layer makes the embedding of the features of a picture, or its mean and variance, and the decoder makes the picture of
the embedding. The loss stands in `learner.objectives.autoencoders.rebuilt`. With beta above 0 it is the representation of RIG,
which takes the mean as the state of a robot (Nair et al. 2018, section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor, autocast, nn

from learner.objectives.autoencoders.decoders import DECODERS
from learner.objectives.autoencoders.rebuilt import Rebuilt, RebuiltConfig
from learner.objectives.contract import Batch, Kit
from learner.parts.network import Network


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(RebuiltConfig):
    """The embedding and the decoder; the encoder is the backbone."""

    name = "autoencoder"
    presets = {"cpu": {"embedding": 64, "width": 64}}


class Autoencoder(Rebuilt[AutoencoderConfig]):
    """Encoder and decoder, and no other state."""

    def __init__(self, config: AutoencoderConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder, side = kit.encoder(), kit.views_config.probe_size
        self.student = Network(encoder, nn.Linear(encoder.dim, config.numbers))
        self.decoder = DECODERS[config.decoder](config.embedding, config.width, side)
        self.views = kit.views(encoder)

    def rebuilt(self, features: Tensor, batch: Batch, generator: Generator) -> tuple[Tensor, Tensor]:
        """See Rebuilt."""
        embedding, divergence = self.embedded(self.student.project(features), generator)
        with autocast(features.device.type, enabled=False):
            return self.decoder(embedding), divergence
