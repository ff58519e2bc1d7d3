"""The other processes of a run: they do in step what the first one orders, until it ends."""

from __future__ import annotations

from learner import ranks
from learner.crew import Order, dealt_back
from learner.loop import Learner


def follow(learner: Learner) -> None:
    """Obey the first process until it lets this one go. Raises ConnectionError where it is gone."""
    while (order := _heard()).verb != "end":
        for key, pair in order.pairs:
            learner.remember(key, pair)
        match order.verb:
            case "step":
                learner.train(order.part)
            case "save":
                ranks.collected(learner.share())
            case "load":
                ranks.collected(learner.assume(order.part, {}, dealt_back()))
        ranks.collected(learner.tally_here())


def _heard() -> Order:
    return ranks.dealt(None)
