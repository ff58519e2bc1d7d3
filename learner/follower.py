"""The other processes of a run: they do in step what the first one orders, until it ends."""

from __future__ import annotations

from learner.distributed import collectives
from learner.distributed.leader import Order, dealt_back
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
                collectives.collected(learner.share())
            case "load":
                collectives.collected(learner.assume(order.part, {}, dealt_back()))
        collectives.collected(learner.tally_here())


def _heard() -> Order:
    return collectives.dealt(None)
