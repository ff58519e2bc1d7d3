"""I-JEPA: what a momentum copy says of a hidden block is guessed from the tokens of the rest (Assran et al. 2023, section 3).

With s_p the token of patch p by the copy, which sees the whole crop, scaled to mean 0 and variance 1, and y_p the guess:

    loss = mean over the patches p of the block of mean smooth_l1(y_p - s_p)

The paper takes four blocks of an image and a predictor of 6 or 12 blocks (its code: smooth L1); here one block is hidden, a
quarter of the crop, and the momentum is constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, nn

from learner.bounds import Count, Momentum
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import Decoder
from learner.parts.network import Ema, Network
from learner.parts.patches import at
from learner.views.masks import BlockConfig, MaskedViews, MasksConfig


@dataclass(frozen=True, kw_only=True)
class IJEPAConfig(ObjectiveConfig):
    """A predictor smaller than the published one, as the backbones are."""

    name = "ijepa"
    takes = (BlockConfig, MasksConfig)
    presets = {"cpu": {"width": 64, "depth": 1, "heads": 2, "momentum": 0.99}}

    width: Count = 384
    """Width of the predictor."""
    depth: Count = 6
    """Blocks of the predictor."""
    heads: Count = 12
    """Attention heads of a block of the predictor."""
    momentum: Momentum = 0.996
    """Of the copy that makes the targets, after each step."""


class IJEPA(Objective[IJEPAConfig]):
    """The student with its predictor, and the copy that it guesses."""

    def __init__(self, config: IJEPAConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, nn.Identity())
        self.teacher = Ema(self.student, config.momentum)
        self.views = kit.views(encoder)
        patches = (kit.views_config.probe_size // encoder.patch_size) ** 2
        sizes = config.width, config.depth, config.heads
        self.predictor = Decoder(encoder.dim, *sizes, patches=patches, out=encoder.dim)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the smooth L1 distance of each pair's guesses and targets."""
        views = self.views(batch, generator)
        assert isinstance(views, MaskedViews)
        features, tokens = self.student.encoder.tokens(views.large[:, 0], keep=views.shown)
        with torch.no_grad():
            _, whole = self.teacher.encoder.tokens(views.large[:, 0])
        with torch.autocast(tokens.device.type, enabled=False):
            targets = at(F.layer_norm(whole.float(), whole.shape[-1:]), views.hidden)
            guesses = self.predictor(tokens.float(), views.shown, views.hidden)
            return Outcome(F.smooth_l1_loss(guesses, targets, reduction="none").mean((1, 2)), features)
