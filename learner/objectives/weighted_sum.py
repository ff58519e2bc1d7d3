"""The weighted sum of two objectives over one encoder: `--objective ntxent+vicreg --objective.weight 0.5`.

    loss_i = loss_i of the first one + weight * loss_i of the second one

and likewise the priorities and the terms of the whole batch. Both see the same views, of a kind that both take; where there is
none, the second one has views of its own. Each has its own projector, and its own momentum copies of the shared encoder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from learner.objectives.contract import Batch, Kit, Meaning, Objective, Outcome
from learner.parts.meaning import in_both
from learner.parts.network import Network, keep_once


class Sum(Objective[Any]):
    """Both objectives. The networks of the first one are probed and exported, and those that only the second one has."""

    meanings = {
        "first_loss": Meaning("", "Loss of the first of two objectives, before it is weighted."),
        "second_loss": Meaning("", "Loss of the second of two objectives, before it is weighted."),
    }

    def __init__(self, config: Any, kit: Kit) -> None:
        super().__init__(config, kit)
        one = kit._replace(given=kit.encoder())
        other = one._replace(views_config=getattr(config, "second_views", kit.views_config))
        parts = [type(some).objective(some, its) for some, its in ((config.first, one), (config.second, other))]
        networks = [{n: part for n, part in some.named_children() if isinstance(part, Network)} for some in parts]
        for name, network in (networks[1] | networks[0]).items():
            self.add_module(name, network)
        self.first, self.second = parts
        self.window = max(part.window for part in parts)
        self.views, self.shares_views = parts[0].views, other == one
        keep_once(self)

    def rate_factors(self) -> dict[nn.Module, float]:
        """See Objective."""
        return {**self.first.rate_factors(), **self.second.rate_factors()}

    def after_step(self) -> None:
        """Let both move."""
        self.first.after_step()
        self.second.after_step()

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the sum, with the features of the first objective and the gauges of both."""
        one, other = (part(batch, generator) for part in self._seeing(batch, generator))
        terms = [some.losses.new_zeros(()) if some.shared is None else some.shared for some in (one, other)]
        losses, weight = [some.losses for some in (one, other)], self.config.weight
        means = [(some.mean() + term).detach() for some, term in zip(losses, terms, strict=True)]
        gauges = in_both(one.gauges, other.gauges) | dict(zip(Sum.meanings, means, strict=True))
        priority, shared = one.ranked_by + weight * other.ranked_by, terms[0] + weight * terms[1]
        return Outcome(losses[0] + weight * losses[1], one.features, priority, shared, gauges)

    def _seeing(self, batch: Batch, generator: Generator) -> tuple[Objective[Any], Objective[Any]]:
        """Return both, which see the views of this batch."""
        views = self.views(batch, generator)
        self.first.views = lambda *_: views
        self.second.views = self.first.views if self.shares_views else self.second.views
        return self.first, self.second

    @torch.no_grad()
    def pictures(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        """Return the pictures of both; of the same name those of the first one."""
        first, second = (part.pictures(batch, generator) for part in self._seeing(batch, generator))
        return second | first
