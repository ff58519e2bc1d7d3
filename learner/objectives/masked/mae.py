"""MAE: a decoder guesses hidden patches from the tokens of the few that the encoder saw (He et al. 2022, section 3).

With x_p the RGB values of patch p, scaled to mean 0 and variance 1 within the patch, and y_p the guess:

    loss = mean over the hidden patches p of mean |y_p - x_p|^2
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from learner.bounds import Count
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import Decoder
from learner.parts.network import Network
from learner.parts.patches import at, patches_of, scaled, unpatched
from learner.views.masks import MaskedViews, MasksConfig
from learner.views.parallax import ParallaxConfig


@dataclass(frozen=True, kw_only=True)
class MAEConfig(ObjectiveConfig):
    """A decoder smaller than the published one, as the backbones are."""

    name = "mae"
    takes = (MasksConfig, ParallaxConfig)
    presets = {"cpu": {"width": 64, "depth": 1, "heads": 2}}

    width: Count = 256
    """Width of the decoder."""
    depth: Count = 4
    """Blocks of the decoder."""
    heads: Count = 8
    """Attention heads of a block of the decoder."""


class MAE(Objective[MAEConfig]):
    """Encoder and decoder, and no other state."""

    def __init__(self, config: MAEConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, nn.Identity())
        self.views = kit.views(encoder)
        patches, out = (kit.views_config.probe_size // encoder.patch_size) ** 2, 3 * encoder.patch_size**2
        self.decoder = Decoder(encoder.dim, config.width, config.depth, config.heads, patches=patches, out=out)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the mean squared error of each pair's hidden patches."""
        features, guesses, views = self._guess(batch, generator)
        wanted = scaled(patches_of(views.large[:, 0], self.student.encoder.patch_size))
        return Outcome((guesses - at(wanted, views.hidden)).square().mean((1, 2)), features)

    def _guess(self, batch: Batch, generator: Generator) -> tuple[Tensor, Tensor, MaskedViews]:
        views = self.views(batch, generator)
        assert isinstance(views, MaskedViews)
        features, tokens = self.student.encoder.tokens(views.large[:, 0], keep=views.shown)
        with torch.autocast(tokens.device.type, enabled=False):
            return features, self.decoder(tokens.float(), views.shown, views.hidden), views

    @torch.no_grad()
    def pictures(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        """Return the views, and the image with its hidden patches as they were guessed, in the contrast of the true ones."""
        _, guesses, views = self._guess(batch, generator)
        side = self.student.encoder.patch_size
        patches = patches_of(views.large[:, 0], side)
        true = at(patches, views.hidden)
        drawn = true.mean(-1, keepdim=True) + guesses * true.std(-1, keepdim=True)
        index = views.hidden[..., None].expand_as(drawn)
        return views.pictures() | {"guessed": unpatched(patches.scatter(1, index, drawn), side).clamp(0, 1)}
