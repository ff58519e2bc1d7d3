"""Targets over prototypes or clusters, and the gauges that show whether they tell pairs apart (`learner.guard` explains them).

Shapes: B pairs, K prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from learner.parts.meaning import Meaning

TARGET_MEANINGS: Mapping[str, Meaning] = {
    "teacher_entropy": Meaning("nats", "Mean entropy of the teacher's target, 0 to ln of the prototypes."),
    "prototypes_in_use": Meaning("", "Perplexity of the batch's mean target, 1 to the number of prototypes."),
    "teacher_information": Meaning("ratio", "What a target tells about its pair, as a share of the most there can be."),
    "student_information": Meaning(
        "ratio", "Share of what the target tells that the student knows; near 0 its answer is the same for all."
    ),
}
DISTILLED_MEANINGS: Mapping[str, Meaning] = {
    "kl": Meaning("nats", "Mean KL of the student's answer from the teacher's target: what the reservoir ranks by."),
    "crop_cosine": Meaning("", "Mean cosine between the crops of a pair, 1 where they are one point."),
    **TARGET_MEANINGS,
}


def target_gauges(targets: Tensor, entropy: Tensor, kl: Tensor) -> dict[str, Tensor]:
    """Return the gauges of targets [M, K] of the whole batch, from their entropies and KL divergences [B] in this process."""
    spread = torch.special.entr(targets.mean(0)).sum()
    information, largest = spread - entropy.mean(), math.log(max(2, min(targets.shape)))
    return {
        "teacher_entropy": entropy.mean(),
        "prototypes_in_use": spread.exp(),
        "teacher_information": information / largest,
        "student_information": (information - kl.mean()) / largest,
    }
