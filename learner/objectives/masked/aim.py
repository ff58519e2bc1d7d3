"""AIM: each patch is guessed from those before it, in the order of lines of text (El-Nouby et al. 2024, section 3).

With x_p the RGB values of patch p of T, scaled to mean 0 and variance 1 within the patch, y_p what a small network makes of the
token of patch p - 1, and S the length of a prefix, drawn from 1 to T - 1 for each batch:

    loss = mean over the patches p >= S of mean |y_p - x_p|^2

Patches of the prefix see each other, each later one only those before it (section 3.2, prefix attention); a `[CLS]` token belongs
to the prefix. All large views are guessed. The paper has 12 layers with positions behind the backbone; here they are few.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, nn

from learner.bounds import Count
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import mlp
from learner.parts.network import Network
from learner.parts.patches import patches_of, scaled
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class AIMConfig(ObjectiveConfig):
    """A small network behind the backbone."""

    name = "aim"
    takes = SEVERAL
    presets = {"cpu": {"hidden": 128}}

    hidden: Count = 1024
    """Width of the two hidden layers of the network that guesses pixels."""


class AIM(Objective[AIMConfig]):
    """Encoder and a small network, and no other state."""

    def __init__(self, config: AIMConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        encoder.require("masked attention", "objective aim")
        self.student, self.views = Network(encoder, nn.Identity()), kit.views(encoder)
        self.decoder = mlp(encoder.dim, config.hidden, config.hidden, 3 * encoder.patch_size**2)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the mean squared error of the patches behind the prefix of each pair's large views."""
        large, encoder = self.views(batch, generator).large, self.student.encoder
        wanted = scaled(patches_of(large.flatten(0, 1), encoder.patch_size))
        count = wanted.shape[1]
        prefix = torch.randint(1, count, (1,), device=large.device, generator=generator)
        seen = torch.arange(encoder.prefix + count, device=large.device)
        mask = (seen <= seen[:, None]) | (seen < encoder.prefix + prefix)
        features, tokens = encoder.tokens(large.flatten(0, 1), mask=mask)
        with torch.autocast(tokens.device.type, enabled=False):
            guesses = self.decoder(tokens[:, :-1].float())
        errors = (guesses - wanted[:, 1:]).square().mean(-1)
        is_behind = torch.arange(1, count, device=large.device) >= prefix
        losses = errors.where(is_behind, 0.0).sum(1) / (count - prefix)
        return Outcome(losses.view(large.shape[:2]).mean(1), features.view(*large.shape[:2], -1)[:, 0])
