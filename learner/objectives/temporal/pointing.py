"""Colours by pointing: each patch of a grey picture copies its colour from earlier pictures (Vondrick et al. 2018).

With f the projections of the patches of grey pictures, and c the soft colour classes of patches, target patch j copies from all
patches i of the `references` pictures before it:

    A_ij = exp(f_i . f_j / temperature) / sum_k exp(f_k . f_j / temperature)        loss = mean_j of H(c_j, sum_i A_ij c_i)

What points at the right colour points at the right thing: `learner.parts.pointing.carried` copies labels of patches so.
The paper has three references, maps of 32 x 32, width 64, 16 clusters of colours and no temperature, and its network sees several
pictures at once; here colours are the classes of `colourise`, and the tokens of a transformer stand for whole patches.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor, nn

from learner.bounds import Count, Positive
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.objectives.pretext.colours import colour_classes, mean_colours, softly
from learner.parts.network import Network
from learner.parts.pointing import point
from learner.parts.windows import USABLE, mean_of, spread
from learner.views.clips.steady import SteadyConfig
from learner.views.lab import light_and_colours


@dataclass(frozen=True, kw_only=True)
class PointingConfig(ObjectiveConfig):
    """The published numbers."""

    name = "pointing"
    takes = (SteadyConfig,)
    clip = 8

    projection: Count = 64
    """Width of the projection of a patch."""
    references: Count = 3
    """Earlier pictures that colours are copied from."""
    temperature: Positive = 1.0
    """Temperature of the softmax over their patches."""


class Pointing(Objective[PointingConfig]):
    """Encoder and projection of patches, and no other state."""

    meanings = {
        "right": Meaning("ratio", "Patches that copied the right class of colours."),
        **USABLE,
    }
    classes: Tensor

    def __init__(self, config: PointingConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        encoder.require("some tokens", "objective pointing")
        self.student = Network(encoder, nn.Linear(encoder.dim, config.projection))
        self.register_buffer("classes", colour_classes(), persistent=False)
        self.views = kit.views(encoder)
        self.window = config.references + 1

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the mean cross-entropy of the colours of the patches, of the windows of each pair."""
        grey, colours = light_and_colours(self.views(batch, generator).large[:, 0])
        windows = batch.windows(self.window)
        features, tokens = self.student.encoder.tokens(grey)
        rows = self.student.project(tokens)
        shown = softly(mean_colours(colours, self.student.encoder.patch_size), self.classes)
        before, target = windows[:, :-1], windows[:, -1]
        copied = point(rows[target], rows[before].flatten(1, 2), shown[before].flatten(1, 2), self.config.temperature)
        terms = -(shown[target] * copied.clamp_min(1e-6).log()).sum(-1).mean(1)
        losses, gauges = spread(terms, windows, features)
        is_right = copied.argmax(-1) == shown[target].argmax(-1)
        return Outcome(losses, features, gauges={"right": mean_of(is_right), **gauges})
