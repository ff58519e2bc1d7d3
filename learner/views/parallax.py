"""Masked crops that prefer places where the two images of a pair differ, as crops that follow motion do.

On a stream, masked images with crops where something moves came close to shuffled ones (2609.40333, "I Have a Stream", 2026; its
code was not to be had, so the choice below is our own). A single pair shows no motion. But its eyes see what one camera would
see before and after a step to the side: behind the shift that most of the image has, near things are what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from learner.bounds import Count
from learner.views.contract import Batch
from learner.views.crops import crop, shrink, to_rgb, windows_anywhere
from learner.views.masks import MasksConfig

SIDE = 32
"""Side in cells of the map of differences."""
FARTHEST = 8
"""Largest shift between the eyes that is tried, in cells: a quarter of the width."""


@dataclass(frozen=True, kw_only=True)
class ParallaxConfig(MasksConfig):
    """Of some places for a crop, the one where the eyes differ most; with hidden patches."""

    name = "parallax"

    candidates: Count = 4
    """Places that are compared; 1 is any place, and more look more often at what is near."""

    def windows(self, batch: Batch, is_left: Tensor, generator: Generator) -> Tensor:
        """See OneEyeConfig. All candidates of a pair have one size, so that only their places compete."""
        left, right = (to_rgb(shrink(eye, SIDE)).mean(1) for eye in (batch.left, batch.right))
        own, other = torch.where(is_left[:, 0], left, right), torch.where(is_left[:, 0], right, left)
        halves = windows_anywhere(batch.aspect, 1, scale=self.scale, generator=generator)[..., 2:]
        places = torch.rand(len(own), self.candidates, 2, device=own.device, generator=generator)
        windows = torch.cat([halves + places * (1 - 2 * halves), halves.expand_as(places)], -1)
        seen = crop(differences(own, other)[..., None].expand(-1, -1, -1, 3), windows, SIDE // 4)
        best = seen.mean((1, 2, 3)).view(len(own), self.candidates).argmax(1)
        return windows[torch.arange(len(own), device=own.device), best, None]


def differences(own: Tensor, other: Tensor) -> Tensor:
    """Return how far each cell of an eye is from the other eye behind the common shift: float [B, S, S], as the two eyes.

    The common shift is the whole number of columns at which the median difference is smallest; cells that have no partner
    differ by 0.
    """
    side = own.shape[-1]
    maps, medians = [], []
    for shift in range(-FARTHEST, FARTHEST + 1):
        first, last = max(0, shift), side + min(0, shift)
        apart = (own[..., first:last] - other[..., first - shift : last - shift]).abs()
        maps.append(torch.nn.functional.pad(apart, (first, side - last)))
        medians.append(apart.flatten(1).median(1).values)
    best = torch.stack(medians).argmin(0)
    return torch.stack(maps, 1)[torch.arange(len(own), device=own.device), best]
