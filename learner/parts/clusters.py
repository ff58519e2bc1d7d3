"""Clusters of the features of recent pairs, found between steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor, nn

from learner.parts.queue import Queue

ROUNDS = 10
"""Rounds of k-means; each begins with the centres of the last time, so few are enough."""


class Clusters(nn.Module):
    """Centres [K, width] of unit rows, computed anew every so many steps from a queue of recent rows."""

    centres: Tensor
    steps: Tensor

    def __init__(self, count: int, width: int, *, recent: int, every_steps: int) -> None:
        super().__init__()
        self.queue = Queue(recent, width)
        self.every_steps = every_steps
        self.register_buffer("centres", F.normalize(torch.randn(count, width), dim=-1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def after_step(self) -> None:
        """Find the centres again where it is time and the queue is full. The queue moves by itself."""
        self.steps += 1
        if self.steps % self.every_steps == 0 and self.queue.taken >= len(self.queue.rows):
            self.centres.copy_(k_means(self.queue.rows, self.centres, ROUNDS))


def k_means(rows: Tensor, centres: Tensor, rounds: int) -> Tensor:
    """Return the centres [K, D] of unit rows [N, D] after rounds of spherical k-means that begin with these centres.

    A centre without rows takes the place of the row that is worst represented (Caron et al. 2018, DeepCluster, section 3.3, on
    empty clusters).
    """
    for _ in range(rounds):
        nearest, own = (rows @ centres.T).max(1)
        sums = torch.zeros_like(centres).index_add_(0, own, rows)
        counts = torch.bincount(own, minlength=len(centres))
        empty = (counts == 0).nonzero().flatten()
        worst = nearest.argsort(stable=True).repeat(1 + len(empty) // len(rows))[: len(empty)]
        sums[empty] = rows[worst]
        centres = F.normalize(sums, dim=-1)
    return centres
