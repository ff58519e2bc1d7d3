"""Colours as classes: the a and b of CIE Lab on a grid, as far as a screen can show them (Zhang et al. 2016, section 2)."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from learner.distributed import collectives
from learner.parts.patches import patches_of
from learner.views.lab import to_lab

STEP = 10.0
"""Distance of two classes along a or b."""
NEAREST, SIGMA = 5, 5.0
"""A colour belongs to so many classes, weighted by a Gaussian of their distances with this deviation (section 2.1)."""


@cache
def colour_classes() -> Tensor:
    """Return the a and b of each class, float [Q, 2]: the points of the grid that are nearest to some sRGB colour."""
    levels = torch.linspace(0, 1, 33)
    cube = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).flatten(1).T
    ab = to_lab(cube[:, :, None, None])[:, 1:, 0, 0]
    found: Tensor = torch.unique((ab / STEP).round(), dim=0) * STEP
    return found


def mean_colours(colours: Tensor, side: int) -> Tensor:
    """Return the mean a and b of each patch, [B, T, 2], of the second view that `lab` makes, [B, 3, S, S]."""
    patches = patches_of(colours, side)
    return (patches.view(*patches.shape[:2], 3, -1).mean(-1)[..., 1:] - 0.5) * 256


def softly(ab: Tensor, classes: Tensor) -> Tensor:
    """Return how much colours [..., 2] belong to each class of [Q, 2]: [..., Q], each row sums to 1."""
    apart, which = (ab[..., None, :] - classes).square().sum(-1).topk(NEAREST, largest=False)
    weights = (-apart / (2 * SIGMA**2)).softmax(-1)
    return torch.zeros(*ab.shape[:-1], len(classes), dtype=ab.dtype, device=ab.device).scatter_(-1, which, weights)


class Rarity(nn.Module):
    """The weight of each class, larger for rare ones, so that not all becomes grey (Zhang et al. 2016, section 2.2).

    w = 1 / ((1 - mix) * share + mix / Q), scaled so that the mean weight over all colours is 1. The paper counts the shares on a
    data set and smooths them; here they follow the stream.
    """

    shares: Tensor

    def __init__(self, classes: int, *, mix: float, momentum: float) -> None:
        super().__init__()
        self.mix, self.momentum = mix, momentum
        self.register_buffer("shares", torch.full((classes,), 1 / classes))
        self._seen = self.shares.clone()

    @torch.no_grad()
    def note(self, targets: Tensor) -> None:
        """Give it the colours of this step, [B, T, Q]."""
        self._seen = collectives.all_rows(targets.mean(1)).mean(0)

    def weights(self) -> Tensor:
        """Return the weight of each class, [Q]."""
        weights = 1 / ((1 - self.mix) * self.shares + self.mix / len(self.shares))
        return weights / (self.shares * weights).sum()

    @torch.no_grad()
    def after_step(self) -> None:
        """Follow the colours of the step; those of a refused one leave no trace."""
        self.shares.lerp_(self._seen.to(self.shares.dtype), 1 - self.momentum)
