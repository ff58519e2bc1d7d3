"""Triplets in time: which pairs are near and far, and what a triplet costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor

from learner.parts.losses import mean_where
from learner.parts.meaning import Meaning
from learner.views.contract import Batch

TRIPLETS: Mapping[str, Meaning] = {
    "right": Meaning("ratio", "Triplets whose positive is nearer than their negative."),
    "right_by_margin": Meaning("ratio", "Triplets whose positive is nearer than their negative by the margin."),
}


class Apart(NamedTuple):
    """Each two pairs of a batch. time: float64 [B, B] >= 0, nan for two epochs; within: bool [B, B], those of one clip."""

    time: Tensor
    within: Tensor


def apart(batch: Batch, unit: str) -> Apart:
    """Return the distances in `seconds`, or in `frames`: rows of a clip, and between two clips seconds over the mean step.

    The mean step is that from a pair to the others of its clip. A clip of one pair or one moment has none, and nan in frames.
    """
    rows = torch.arange(len(batch), device=batch.left.device)
    between = (rows[:, None] - rows).abs().double()
    if batch.clips is None or batch.epochs is None or batch.times_s is None:
        return Apart(torch.full_like(between, torch.nan), between < 0)
    within = batch.clips[:, None] == batch.clips
    time = (batch.times_s[:, None] - batch.times_s).abs()
    if unit == "frames":
        step = (time * within).sum(1) / (between * within).sum(1)
        step = torch.where(step > 0, step, torch.nan)
        time = torch.where(within, between, time / step[:, None])
    return Apart(torch.where(batch.epochs[:, None] == batch.epochs, time, torch.nan), within)


def drawn(chosen: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one of the chosen columns of each row: its number, int64 [B], and whether there is one, bool [B].

    chosen: bool [B, C]; chances: uniform in [0, 1), float [B].
    """
    count = chosen.sum(1)
    number = (chances * count).long()
    return (chosen.cumsum(1) > number[:, None]).long().argmax(1), count > 0


class Triplets(NamedTuple):
    """What the triplets of each anchor come to: means over its negatives, float [B]; is_usable: bool [B], whether it has one."""

    losses: Tensor
    right: Tensor
    right_by_margin: Tensor
    is_usable: Tensor


def triplets(anchors: Tensor, positives: Tensor, is_far: Tensor, margin: float) -> Triplets:
    """Return max(0, margin + d(a, p) - d(a, n)) with d the squared distance of rows [B, D]; the negatives are anchors too.

    is_far: bool [B, B], the negatives of each anchor. A negative that is not finite is left out.
    """
    is_far = is_far & anchors.isfinite().all(-1)
    with torch.autocast(anchors.device.type, enabled=False):
        to_positive = (anchors - positives).square().sum(-1, keepdim=True)
        to_others = (anchors[:, None] - anchors.nan_to_num(0.0, 0.0, 0.0)).square().sum(-1)
    losses = mean_where(F.relu(margin + to_positive - to_others), is_far)
    right, by_margin = (mean_where((to_positive + more < to_others).float(), is_far) for more in (0.0, margin))
    return Triplets(losses, right, by_margin, is_far.any(1))
