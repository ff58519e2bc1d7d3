"""Clusters of the features of recent pairs, found between steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor, nn

from learner.parts.queue import Queue

ROUNDS = 10
"""Rounds of k-means; each begins with the centres of the last time, so few are enough."""


class Clusters(nn.Module):
    """Centres [K, width] of unit rows, found in a queue of recent rows as soon as it has K, then again every so many steps.

    They are random before. Waiting longer does harm: the rows of a random network are so much alike that one random centre is
    nearest to all of them, and what learns from that makes them equal.
    """

    centres: Tensor
    steps: Tensor

    def __init__(self, count: int, width: int, *, recent: int, every_steps: int) -> None:
        super().__init__()
        self.queue = Queue(recent, width)
        self.every_steps = every_steps
        self.register_buffer("centres", F.normalize(torch.randn(count, width), dim=-1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def after_step(self) -> None:
        """Find the centres where it is time. The queue moves by itself."""
        self.steps += 1
        enough, taken = min(len(self.centres), len(self.queue.rows)), int(self.queue.taken)
        is_first = taken >= enough > taken - self.queue.entered
        if is_first or (self.steps % self.every_steps == 0 and taken >= enough):
            self.search(self.queue.rows[:taken])

    def search(self, rows: Tensor) -> None:
        """Find the centres of rows [N, width], beginning with those of the last time."""
        self.centres.copy_(k_means(rows, self.centres, ROUNDS))


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


class Pseudolabels(Clusters):
    """Clusters of features that are whitened first, and a linear classifier that begins again with each search.

    (Caron et al. 2018, DeepCluster, section 3.) dim: width of the features; components: columns that PCA keeps. weights: float
    [K], inverse to the number of recent rows in each cluster, 1 for an even share.
    """

    mean: Tensor
    whitening: Tensor
    weights: Tensor

    def __init__(self, dim: int, count: int, components: int, *, recent: int, every_steps: int) -> None:
        super().__init__(count, components, recent=recent, every_steps=every_steps)
        self.queue = Queue(recent, dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("whitening", torch.eye(dim)[:, :components].contiguous())
        self.register_buffer("weights", torch.ones(count))
        self.classifier = nn.Linear(dim, count)

    def of(self, features: Tensor) -> Tensor:
        """Return the cluster of each row of features [B, dim]: int [B]."""
        with torch.autocast(features.device.type, enabled=False):
            return (self._whitened(features) @ self.centres.T).argmax(-1)

    def scores(self, features: Tensor) -> Tensor:
        """Return the scores of the classes for features [..., dim]: float [..., K]."""
        with torch.autocast(features.device.type, enabled=False):
            found: Tensor = self.classifier(features.float())
            return found

    def _whitened(self, features: Tensor) -> Tensor:
        return F.normalize((features - self.mean) @ self.whitening, dim=-1)

    @torch.no_grad()
    def search(self, rows: Tensor) -> None:
        """Find the clusters of rows [N, dim], and let a classifier begin whose weights depend on the number of steps only."""
        count = len(self.centres)
        self.mean.copy_(rows.mean(0))
        values, columns = torch.linalg.eigh(torch.cov(rows.T, correction=0))
        kept = slice(-self.whitening.shape[1], None)
        self.whitening.copy_(columns[:, kept] * torch.rsqrt(values[kept].clamp_min(0) + 1e-5))
        rows = self._whitened(rows)
        evenly = torch.arange(count, device=rows.device) * len(rows) // count
        self.centres.copy_(k_means(rows, rows[evenly], ROUNDS))
        sizes = torch.bincount((rows @ self.centres.T).argmax(-1), minlength=count)
        self.weights.copy_(len(rows) / (count * sizes.clamp_min(1)))
        drawn = torch.randn(self.classifier.weight.shape, generator=torch.Generator().manual_seed(int(self.steps)))
        self.classifier.weight.copy_(0.01 * drawn)
        self.classifier.bias.zero_()
