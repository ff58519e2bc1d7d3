"""Autoencoder: picture -> embedding -> picture, as the live-video experiment learns, or a beta-VAE (Higgins et al. 2017).

With x the RGB values of a picture in [0, 1], P of them, (mu, sigma) what a linear layer makes of its features, and y the picture
that the decoder makes of the embedding z:

    loss = mean |y - x|^2 + 2 beta KL(N(mu, sigma^2) || N(0, 1)) / P

With beta 0 there is no sigma, and z = mu. Otherwise z is drawn from N(mu, sigma^2), and the loss is 2 / P times that of a
beta-VAE whose pixels have a variance of 1. RIG takes mu as the state of a robot (Nair et al. 2018, section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator, Tensor, autocast, nn, no_grad

from learner.bounds import Count, NotNegative
from learner.objectives.autoencoders.decoders import DECODERS, DecoderKind
from learner.objectives.autoencoders.explained import EXPLAINED, explained
from learner.objectives.autoencoders.gaussian import drawn
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.network import Network
from learner.views.one_eye import WholeConfig


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(ObjectiveConfig):
    """The embedding and the decoder; the encoder is the backbone."""

    name: ClassVar[str] = "autoencoder"
    takes = (WholeConfig,)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"cpu": {"embedding": 64, "width": 64}}

    decoder: DecoderKind = "convolutional"
    """plain: two linear layers; convolutional: from 4 x 4 cells to the picture, doubled again and again; transformer."""
    embedding: Count = 256
    """Numbers of an embedding."""
    width: Count = 256
    """Width of the decoder: channels of its first layer, or of its tokens."""
    beta: NotNegative = 0.0
    """Weight of the divergence from a standard normal distribution; above 0 the autoencoder is variational."""


class Autoencoder(Objective[AutoencoderConfig]):
    """Encoder and decoder, and no other state."""

    meanings = EXPLAINED

    def __init__(self, config: AutoencoderConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder, side = kit.encoder(), kit.views_config.probe_size
        self.student = Network(encoder, nn.Linear(encoder.dim, config.embedding * (2 if config.beta else 1)))
        self.decoder = DECODERS[config.decoder](config.embedding, config.width, side)
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the loss of each pair by the formula of this module."""
        wanted = self.views(batch, generator).large[:, 0]
        features = self.student.encoder(wanted)
        made, divergence = self.rebuilt(features, generator)
        losses = (made - wanted).square().mean((1, 2, 3)) + 2 * self.config.beta * divergence / wanted[0].numel()
        return Outcome(losses, features, gauges=explained(wanted, made.detach()))

    def rebuilt(self, features: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return what the decoder makes of features [B, D], pictures [B, 3, S, S], and the divergence of each embedding, [B]."""
        numbers = self.student.project(features)
        none = numbers.new_zeros(len(numbers))
        embedding, divergence = drawn(numbers, generator) if self.config.beta else (numbers, none)
        with autocast(numbers.device.type, enabled=False):
            return self.decoder(embedding), divergence

    @no_grad()
    def pictures(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        """Return the picture, and what came out."""
        views = self.views(batch, generator)
        made, _ = self.rebuilt(self.student.encoder(views.large[:, 0]), generator)
        return views.pictures() | {"guessed": made.clamp(0, 1)}
