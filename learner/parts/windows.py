"""Losses of windows, runs of consecutive pairs in a clip, as losses of pairs."""

from __future__ import annotations

from torch import Tensor

from learner.distributed import collectives
from learner.parts.meaning import Meaning

USABLE = {"usable": Meaning("ratio", "Pairs in a window that the objective could use; 0 where clips are too short.")}


def spread(terms: Tensor, rows: Tensor, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the losses of pairs, float [B], from those of windows, float [W] of these rows, int64 [W, k]; and USABLE's gauge.

    features: float [B, D], of the pairs. Each window gives its pairs equal parts, so that the mean over the pairs of all
    processes is that over their windows. A pair in no window has 0, with a gradient of 0; without any window all have.
    """
    features = features.float()
    share = collectives.all_rows(features.new_tensor([len(rows) / len(features)])).mean().clamp_min(1e-9)
    parts = (terms / (rows.shape[1] * share))[:, None].expand(rows.shape)
    losses = (0.0 * features).sum(1).index_add(0, rows.flatten(), parts.flatten())
    is_used = features.new_zeros(len(features)).index_fill(0, rows.flatten(), 1.0)
    return losses, {"usable": is_used.mean()}


def mean_of(values: Tensor) -> Tensor:
    """Return the mean of some values, bool or float, without gradient; 0 of none."""
    return values.detach().float().sum() / max(values.numel(), 1)
