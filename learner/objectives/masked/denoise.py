"""Denoising autoencoder: the pixels of a crop are guessed from the same crop with noise (Vincent et al. 2010, section 3).

With x_p the RGB values of patch p in [0, 1], and y_p what one linear layer makes of its token:

    loss = mean over the patches p of mean |y_p - x_p|^2

The paper trains layer by layer; here all are trained together. Its noise is one of the kinds of `views noise`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, nn

from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome, Views
from learner.parts.network import Network
from learner.parts.patches import patches_of, unpatched
from learner.views.noise import NoiseConfig


@dataclass(frozen=True, kw_only=True)
class DenoiseConfig(ObjectiveConfig):
    """There is nothing to set; the noise is set with the views."""

    name = "denoise"
    takes = (NoiseConfig,)


class Denoise(Objective[DenoiseConfig]):
    """Encoder and a linear decoder, and no other state."""

    def __init__(self, config: DenoiseConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        encoder.require("some tokens", "objective denoise")
        self.student = Network(encoder, nn.Identity())
        self.decoder = nn.Linear(encoder.dim, 3 * encoder.patch_size**2)
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the mean squared error of each pair's pixels."""
        views = self.views(batch, generator)
        features, guesses = self._guess(views)
        wanted = patches_of(views.large[:, 0], self.student.encoder.patch_size)
        return Outcome((guesses - wanted).square().mean((1, 2)), features)

    def _guess(self, views: Views) -> tuple[torch.Tensor, torch.Tensor]:
        features, tokens = self.student.encoder.tokens(views.large[:, 1])
        with torch.autocast(tokens.device.type, enabled=False):
            return features, self.decoder(tokens.float())

    @torch.no_grad()
    def pictures(self, batch: Batch, generator: Generator) -> dict[str, torch.Tensor]:
        """Return the crop, the one with noise, and what was made of it."""
        views = self.views(batch, generator)
        _, guesses = self._guess(views)
        return views.pictures() | {"guessed": unpatched(guesses, self.student.encoder.patch_size).clamp(0, 1)}
