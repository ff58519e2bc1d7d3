"""Context encoder: the pixels of a hidden block are guessed from what is around it (Pathak et al. 2016, section 3).

With x the RGB values of the block's patches in [0, 1], y the guesses of a decoder, and D a discriminator (equations 1 to 3):

    loss = reconstruction * mean |y - x|^2 + adversarial * max_D [log D(x) + log(1 - D(y))]

D learns by the same step: its gradient is reversed on its way to the guesses. `adversarial` 0 is the paper's L2 alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, Tensor, nn

from learner.bounds import Count, NotNegative
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import Decoder, mlp
from learner.parts.network import Network
from learner.parts.patches import at, patches_of
from learner.parts.reversal import reversed_gradient
from learner.views.masks import BlockConfig, MaskedViews, MasksConfig


@dataclass(frozen=True, kw_only=True)
class ContextConfig(ObjectiveConfig):
    """The published weights; a decoder of attention blocks in place of convolutions."""

    name = "context"
    takes = (BlockConfig, MasksConfig)
    presets = {"cpu": {"width": 64, "depth": 1, "heads": 2}}

    width: Count = 256
    """Width of the decoder, and of the hidden layer of the discriminator."""
    depth: Count = 4
    """Blocks of the decoder."""
    heads: Count = 8
    """Attention heads of a block of the decoder."""
    reconstruction: NotNegative = 0.999
    """Weight of the squared error."""
    adversarial: NotNegative = 0.001
    """Weight of the discriminator's gradient in the guesses."""


class Context(Objective[ContextConfig]):
    """Encoder, decoder and discriminator, and no other state."""

    meanings = {"told_apart": Meaning("ratio", "Guesses of the discriminator that are right.")}

    def __init__(self, config: ContextConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, nn.Identity())
        self.views = kit.views(encoder)
        patches, out = (kit.views_config.probe_size // encoder.patch_size) ** 2, 3 * encoder.patch_size**2
        self.decoder = Decoder(encoder.dim, config.width, config.depth, config.heads, patches=patches, out=out)
        self.discriminator = mlp(out, config.width, 1)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the squared error of each pair's block, and how well the discriminator tells it from the true one."""
        views = self.views(batch, generator)
        assert isinstance(views, MaskedViews)
        features, tokens = self.student.encoder.tokens(views.large[:, 0], keep=views.shown)
        true = at(patches_of(views.large[:, 0], self.student.encoder.patch_size), views.hidden)
        with torch.autocast(tokens.device.type, enabled=False):
            guesses = self.decoder(tokens.float(), views.shown, views.hidden)
            real, made = (self._score(some) for some in (true, reversed_gradient(guesses, self.config.adversarial)))
        errors = (guesses - true).square().mean((1, 2))
        losses = self.config.reconstruction * errors + F.softplus(-real) + F.softplus(made)
        right = ((real > 0).float() + (made < 0).float()).mean() / 2
        return Outcome(losses, features, gauges={"told_apart": right.detach()})

    def _score(self, patches: Tensor) -> Tensor:
        """Return the log odds that the patches [B, n, P] of a block are true, [B]."""
        odds: Tensor = self.discriminator(patches)[..., 0].mean(1)
        return odds
