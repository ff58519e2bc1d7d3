"""What all autoencoders share: the loss of a picture that was rebuilt, and what a person sees of it.

With x the RGB values of a picture in [0, 1], P of them, y the picture that the decoder makes, and N(mu, sigma^2) the embedding:

    loss = mean |y - x|^2 + 2 beta KL(N(mu, sigma^2) || N(0, 1)) / P

With beta 0 there is no sigma, and mu is the embedding. Otherwise it is drawn from N(mu, sigma^2), and the loss is 2 / P times
that of a beta-VAE whose pixels have a variance of 1 (Higgins et al. 2017).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Generator, Tensor

from learner.bounds import Count, NotNegative
from learner.objectives.autoencoders.decoders import DecoderKind
from learner.objectives.autoencoders.explained import EXPLAINED, explained
from learner.objectives.autoencoders.gaussian import drawn
from learner.objectives.contract import Batch, Objective, ObjectiveConfig, Outcome
from learner.parts.network import Network
from learner.views.one_eye import WholeConfig


@dataclass(frozen=True, kw_only=True)
class RebuiltConfig(ObjectiveConfig):
    """The embedding and the decoder; the encoder is the backbone."""

    takes = (WholeConfig,)

    decoder: DecoderKind = "convolutional"
    """plain: two linear layers; convolutional: from 4 x 4 cells to the picture, doubled again and again; transformer."""
    embedding: Count = 256
    """Numbers of an embedding."""
    width: Count = 256
    """Width of the decoder: channels of its first layer, or of its tokens."""
    beta: NotNegative = 0.0
    """Weight of the divergence from a standard normal distribution; above 0 the autoencoder is variational."""

    @property
    def numbers(self) -> int:
        """What a network has to say of an embedding: its numbers, and the logarithms of their variances where there are any."""
        return self.embedding * (2 if self.beta else 1)


ConfigT = TypeVar("ConfigT", bound=RebuiltConfig, covariant=True)


class Rebuilt(Objective[ConfigT]):
    """A student that sees a picture, and a decoder that rebuilds it."""

    meanings = EXPLAINED
    student: Network

    @abstractmethod
    def rebuilt(self, features: Tensor, batch: Batch, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return what the decoder makes of features [B, D], pictures [B, 3, S, S], and the divergence of each embedding, [B]."""

    def embedded(self, numbers: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return embeddings and their divergences, [B, embedding] and [B], from `numbers` of the settings, [B, numbers]."""
        return drawn(numbers, generator) if self.config.beta else (numbers, numbers.new_zeros(len(numbers)))

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the loss of each pair by the formula of this module."""
        wanted = self.views(batch, generator).large[:, 0]
        features = self.student.encoder(wanted)
        made, divergence = self.rebuilt(features, batch, generator)
        losses = (made - wanted).square().mean((1, 2, 3)) + 2 * self.config.beta * divergence / wanted[0].numel()
        return Outcome(losses, features, gauges=explained(wanted, made.detach()))

    @torch.no_grad()
    def pictures(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        """Return the picture, and what came out."""
        views = self.views(batch, generator)
        made, _ = self.rebuilt(self.student.encoder(views.large[:, 0]), batch, generator)
        return views.pictures() | {"guessed": made.clamp(0, 1)}
