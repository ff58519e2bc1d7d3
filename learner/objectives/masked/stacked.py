"""Stacked denoising autoencoder: each block guesses its own input from that input with noise (Vincent et al. 2010, section 3.5).

With h_l the input of block l for the crop without noise, x the RGB values of its patches, and g_l a linear layer:

    loss = mean over l of mean |g_l(block_l(noisy h_l)) - norm(h_l)|^2, for the first block |g_0(block_0(noisy crop)) - x|^2

`norm` scales each token to mean 0 and variance 1. The first block has the embedding before it, the last the norm behind it. No
gradient goes from a block to those below. The paper trains one layer to its end, then the next; on a stream all learn at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, Tensor, nn

from learner.bounds import Share
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.network import Network
from learner.parts.patches import patches_of
from learner.views.noise import NoiseConfig


@dataclass(frozen=True, kw_only=True)
class StackedConfig(ObjectiveConfig):
    """The noise of the crop is set with the views."""

    name = "stacked"
    takes = (NoiseConfig,)

    destroyed: Share = 0.25
    """Share of the columns of a block's input that become 0, the same ones for all pairs of a batch."""


class Stacked(Objective[StackedConfig]):
    """Encoder and a linear layer for each block, and no other state."""

    def __init__(self, config: StackedConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        encoder.require("some tokens", "objective stacked")
        self.student, self.views = Network(encoder, nn.Identity()), kit.views(encoder)
        widths = [3 * encoder.patch_size**2, *[encoder.dim] * (len(encoder.backbone.blocks) - 1)]
        self.decoders = nn.ModuleList(nn.Linear(encoder.dim, width) for width in widths)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the mean of the squared errors of all blocks for each pair."""
        views, encoder = self.views(batch, generator), self.student.encoder
        with torch.no_grad():
            features, clean, _ = self._through(views.large[:, 0], lambda _number, given: given)
        kept = torch.rand(len(clean), encoder.dim, device=features.device, generator=generator) >= self.config.destroyed
        _, _, made = self._through(views.large[:, 1], lambda n, given: clean[n] * kept[n] if n else given)
        wanted = [F.layer_norm(given.float(), given.shape[-1:])[:, encoder.prefix :] for given in clean]
        wanted[0] = patches_of(views.large[:, 0], encoder.patch_size)
        with torch.autocast(features.device.type, enabled=False):
            guesses = [layer(tokens.float()) for layer, tokens in zip(self.decoders, made, strict=True)]
        errors = [(one - other).square().mean((1, 2)) for one, other in zip(guesses, wanted, strict=True)]
        return Outcome(torch.stack(errors).mean(0), features)

    def _through(self, rgb: Tensor, change: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, list[Any], list[Any]]:
        """Return the features, the inputs of the blocks after `change`, and what they make of them, of the patches alone."""
        encoder, given, made = self.student.encoder, [], []
        with ExitStack() as hooks:
            for number, block in enumerate(encoder.backbone.blocks):
                hooks.enter_context(block.register_forward_pre_hook(partial(_changed, partial(change, number))))
                hooks.enter_context(block.register_forward_hook(lambda _, args, found: given.append(args[0])))
                hooks.enter_context(block.register_forward_hook(lambda _, args, found: made.append(found)))
            features, tokens = encoder.tokens(rgb)
        return features, given, [*(found[:, encoder.prefix :] for found in made[:-1]), tokens]


def _changed(change: Callable[[Tensor], Tensor], _block: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return change(given[0]), *given[1:]
