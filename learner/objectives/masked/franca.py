"""Franca: a crop of which patches are hidden guesses nested prototypes of the whole crop (Venkataramanan et al. 2025, section 3).

Of the features, and of the tokens of shown patches without what tells their places (RASA), level l has the first 1 / 2^l of the
columns. With s_l their cosines with K / 2^l prototypes, and Q_l Sinkhorn's codes of a momentum copy, which sees the whole crop:

    loss = sum_l [ H(Q_l, softmax(s_l / student_temperature)) of the features + mean over the tokens ] + position

where `position` is the error of the layers that read places, and moves only these. The reference has 131072 prototypes, two
global and eight local crops and mask tokens; its RASA comes after training, here it goes on all the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator

from learner.bounds import Bound, Count, Momentum, Positive
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import NestedProjector, PrototypeConfig
from learner.parts.losses import even_codes
from learner.parts.network import Ema, Network
from learner.parts.patches import PlaceRemoval, at
from learner.views.masks import BlockConfig, MaskedViews, MasksConfig
from learner.views.parallax import ParallaxConfig


@dataclass(frozen=True, kw_only=True)
class FrancaConfig(PrototypeConfig, ObjectiveConfig):
    """Momentum and temperatures as published, with fewer prototypes; all constant."""

    name = "franca"
    takes = (MasksConfig, BlockConfig, ParallaxConfig)
    presets = {"cpu": {"hidden": 256, "bottleneck": 64, "prototypes": 256}}

    levels: Annotated[int, Bound(ge=1, le=6)] = 3
    """Nested levels; the coarsest one has 1 / 2^(levels - 1) of the columns and of the prototypes."""
    rounds: Count = 3
    """Pairs of directions that are taken out of the tokens."""
    teacher_momentum: Momentum = 0.994
    """Of the copy that makes the codes, after each step."""
    teacher_temperature: Positive = 0.04
    """Temperature of the codes; a lower one sharpens."""
    student_temperature: Positive = 0.1
    """Temperature of the softmax of the student."""


class Franca(Objective[FrancaConfig]):
    """The student, its copy, and the layers that read places."""

    shared_statistics = "Sinkhorn's codes are those of the whole batch"
    meanings = {"place_error": Meaning("", "Error of places read from tokens.")}

    def __init__(self, config: FrancaConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, NestedProjector(encoder.dim, config.levels, config))
        self.teacher, self.views = Ema(self.student, config.teacher_momentum), kit.views(encoder)
        self.places = PlaceRemoval(encoder.dim, config.rounds)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the cross-entropies of each pair's codes on all levels, and the error of its places."""
        views = self.views(batch, generator)
        assert isinstance(views, MaskedViews)
        (crop,), shown, across = views.large.unbind(1), views.shown, views.patches_across
        features, tokens = self.student.encoder.tokens(crop, keep=shown)
        cleaned, errors = self.places(tokens, shown, across)
        with torch.no_grad():
            whole, all_tokens = self.teacher.encoder.tokens(crop)
            seen, _ = self.places(at(all_tokens, shown), shown, across)
        said = self.teacher.project(torch.cat([whole[:, None], seen], 1))
        losses, temperature = errors, self.config.teacher_temperature
        for one, other in zip(self.student.project(torch.cat([features[:, None], cleaned], 1)), said, strict=True):
            codes = torch.cat([even_codes(some, temperature) for some in (other[:, :1], other[:, 1:])], 1)
            terms = -(codes * (one / self.config.student_temperature).log_softmax(-1)).sum(-1)
            losses = losses + terms[:, 0] + terms[:, 1:].mean(1)
        return Outcome(losses, features, gauges={"place_error": errors.detach().mean()})
