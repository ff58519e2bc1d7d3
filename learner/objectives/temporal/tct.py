"""Time-contrastive triplets: what is near in time is near, what is far in time is not (Sermanet et al. 2018, TCN).

With f a projection scaled to length `norm` (Ranjan et al. 2017), and d the squared distance of two of them:

    loss_a = mean over the negatives n of max(0, margin + d(a, p) - d(a, n))

Anchors and negatives are left eyes. The positive p is another picture of the clip, at most `near` away, or the right eye of the
same moment. A negative is farther than `far`, in the same epoch and process. A replication ("Self-supervised learning from
snaps") has these numbers, one negative, SGD at 0.1; the authors' code unit vectors, margin 0.2, 6 and 12 frames, one semi-hard
negative, Adam at 1e-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Generator

from learner.bounds import Count, Positive
from learner.objectives.contract import Batch, Kit, Objective, ObjectiveConfig, Outcome, Views
from learner.objectives.temporal.triplets import TRIPLETS, apart, drawn, triplets
from learner.parts.heads import UnitProjector
from learner.parts.network import Network
from learner.parts.windows import USABLE, mean_of, spread
from learner.views.clips.steady import ClipViews, EyesConfig


@dataclass(frozen=True, kw_only=True)
class TCTConfig(ObjectiveConfig):
    """The numbers of the replication."""

    name = "tct"
    takes = (EyesConfig,)
    clip = 8
    presets = {"cpu": {"hidden": 256}}

    hidden: Count = 2048
    """Width of the hidden layer of the projector."""
    projection: Count = 32
    """Width of a projection."""
    norm: Positive = 10.0
    """Length of a projection."""
    margin: Positive = 2.0
    """By how much the squared distance to a negative has to be larger than that to the positive."""
    positive: Literal["time", "eye"] = "time"
    """The positive: another picture of the clip (one view), or the right eye at the same moment (two views)."""
    near: Positive = 10.0
    """Largest distance in time of a positive picture."""
    far: Positive = 30.0
    """Distance in time beyond which a picture is a negative."""
    unit: Literal["frames", "seconds"] = "frames"
    """The unit of `near` and `far`; take seconds where dedupe leaves frames out."""


class TCT(Objective[TCTConfig]):
    """One network and no other state."""

    meanings = {**TRIPLETS, **USABLE}

    def __init__(self, config: TCTConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, UnitProjector(encoder.dim, config.hidden, config.projection))
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the loss of each pair as an anchor; 0 where it has no positive or no negative."""
        views, config, is_eye = self.views(batch, generator), self.config, self.config.positive == "eye"
        assert isinstance(views, ClipViews)
        features = Views(views.large[:, : 1 + is_eye], views.small).through(self.student.encoder)
        rows = config.norm * self.student.project(features)
        time, within = apart(batch, config.unit)
        partner, is_there = drawn(within & (time > 0) & (time <= config.near), views.chances[:, 0])
        positives = rows[:, 1] if is_eye else rows[partner, 0]
        found = triplets(rows[:, 0], positives, time > config.far, config.margin)
        chosen = (found.is_usable & (is_there | is_eye)).nonzero()
        terms, *shares = (values[chosen[:, 0]] for values in found[:3])
        losses, gauges = spread(terms, chosen, features[:, 0])
        return Outcome(losses, features[:, 0], gauges=gauges | dict(zip(TRIPLETS, map(mean_of, shares), strict=True)))
