"""The term that pushes projections apart: those of one pair, or those of all other pairs of the batch.

Shapes: B pairs, N views of a pair, D width of a projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor

from learner.bounds import NotNegative, Positive
from learner.distributed import collectives
from learner.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class RepulsionConfig:
    """The settings of the term, for an objective to inherit from."""

    repulsion: NotNegative = 0.1
    """lambda, the weight of the term that pushes crops apart."""
    repelled_by: Literal["crops", "pairs"] = "crops"
    """The crops from which a crop is repelled: others of the same pair (original experiment), or those of all other pairs of
    the batch."""
    repulsion_temperature: Positive = 0.05
    """tau of that term."""

    def require_crops(self, count: int) -> None:
        """Raise SettingsError if so many crops of a pair cannot repel each other."""
        if self.repelled_by == "crops" and self.repulsion and count < 2:
            raise SettingsError(
                f"objective: crops must be at least 2 to repel each other, got {count}: repelled_by pairs needs one"
            )

    def repelled(self, projections: Tensor, cosines: Tensor) -> Tensor:
        """Return the term with its weight, [B], from unit projections [B, N, D] and the cosines in each pair [B, N, N]."""
        if not self.repulsion:
            return torch.zeros_like(cosines[:, 0, 0])
        if self.repelled_by == "crops":
            return self.repulsion * repulsion(cosines, self.repulsion_temperature)
        everyones = collectives.all_rows(projections.detach())
        own = collectives.own_rows(torch.arange(len(everyones), device=everyones.device))
        return self.repulsion * repulsion_from_others(projections, everyones, own, self.repulsion_temperature)


def pairwise_cosines(projections: Tensor) -> Tensor:
    """Return the cosines between the unit projections of the crops of each pair: [B, N, D] to [B, N, N]."""
    with torch.autocast(projections.device.type, enabled=False):  # a small temperature divides them next
        return projections @ projections.transpose(-2, -1)


def mean_cosine(cosines: Tensor) -> Tensor:
    """Return the mean of those [B, N, N] of two different crops, without gradient; 0 where there is one."""
    count = cosines.shape[-1]
    off_diagonal = (cosines.detach().sum((-2, -1)) - count) / max(count * (count - 1), 1)
    return off_diagonal.mean()


def repulsion(cosines: Tensor, temperature: float) -> Tensor:
    """Return sum_i log sum_{j != i} exp(cos(z_i, z_j) / temperature): [B, N, N] to [B]."""
    itself = torch.eye(cosines.shape[-1], dtype=torch.bool, device=cosines.device)
    return (cosines / temperature).masked_fill(itself, -torch.inf).logsumexp(-1).sum(-1)


def repulsion_from_others(projections: Tensor, all_projections: Tensor, own: Tensor, temperature: float) -> Tensor:
    """Return sum_i log sum_{j of another pair} exp(cos(z_i, z_j) / temperature): [B].

    projections: [B, N, D] of this process. all_projections: [M, N, D] of all. own: int [B], the position of each pair among all.
    This is what InfoNCE lowers beside the cosine with the own key (van den Oord et al. 2018, equation 4; Wang and Isola 2020,
    uniformity). The others have no gradient, so that several processes give the same as one. Projections that are not finite
    are left out, so that a bad pair spoils its own loss only.
    """
    others = all_projections.flatten(0, 1)
    broken = ~others.isfinite().all(-1)
    with torch.autocast(projections.device.type, enabled=False):
        cosines = projections @ others.nan_to_num(0.0, 0.0, 0.0).T
    mine = F.one_hot(own, len(all_projections)).bool().repeat_interleave(all_projections.shape[1], 1)
    return (cosines / temperature).masked_fill((mine | broken)[:, None], -torch.inf).logsumexp(-1).sum(-1)
