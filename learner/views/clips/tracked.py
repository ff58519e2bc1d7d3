"""A patch of the left eye in which something moves, and the patch that it has become later in the clip.

Wang and Gupta 2015 (unsupervised learning from videos, section 4) find moving patches by trajectories of features and follow them
over 30 frames by a correlation filter. Here a patch is drawn in proportion to how much changes in it, and followed from picture
to picture by its normalised cross-correlation with what lies around, on small grey pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, Tensor

from learner.bounds import Bound, Count
from learner.networks.encoder import Encoder
from learner.views.augment import Augmentation, augment
from learner.views.contract import Batch, MakeViews, Views, ViewsConfig
from learner.views.crops import crop, shrink, to_rgb
from learner.views.one_eye import PLAIN

SIDE = 64
"""Cells along a side of the small pictures on which patches are followed."""


@dataclass(frozen=True, slots=True)
class TrackedViews(Views):
    """Two large views: a patch, and what it has become. is_followed: bool [B], whether a track begins with this pair.

    Of any other pair both views are the same patch.
    """

    is_followed: Tensor


@dataclass(frozen=True, kw_only=True)
class TrackedConfig(ViewsConfig):
    """Two large views: a patch of the first picture of each clip, and the same patch some pictures later."""

    name = "tracked"
    presets = {"cpu": {"size": 32}}

    size: Count = 224
    """Side in pixels of a view."""
    side: Annotated[int, Bound(ge=4, le=SIDE // 2)] = 20
    """Side of a patch, in cells; a picture has 64 along each side."""
    radius: Annotated[int, Bound(ge=1, le=SIDE // 4)] = 6
    """Largest motion of a patch from one picture to the next, in cells."""
    span: Count = 5
    """Pictures through which a patch is followed."""
    least: Annotated[float, Bound(ge=-1, le=1)] = 0.5
    """Correlation with the picture before below which a patch is lost."""
    augmentation: Augmentation = PLAIN

    @property
    def count(self) -> int:
        """See ViewsConfig."""
        return 2

    @property
    def probe_size(self) -> int:
        """See ViewsConfig."""
        return self.size

    def maker(self, encoder: Encoder) -> MakeViews:
        """See ViewsConfig."""
        encoder.require_sizes(self, "size")
        return self._views

    @torch.no_grad()
    def _views(self, batch: Batch, generator: Generator) -> TrackedViews:
        tracks = batch.windows(self.span + 1)
        tracks = tracks[batch.starts()[tracks[:, 0]] == tracks[:, 0]]
        first, last = tracks[:, 0], torch.arange(len(batch), device=tracks.device)
        with torch.autocast(batch.left.device.type, enabled=False):
            small = to_rgb(shrink(batch.left, SIDE)).mean(1)
            change = torch.ones_like(small).index_copy(0, first, (small[first] - small[tracks[:, 1]]).abs())
            places = drawn_places(change, self.side, generator)
            found, score = followed(small, tracks, places[first], self.side, self.radius)
            ends = places.index_copy(0, first, found)
            last = last.index_copy(0, first, tracks[:, -1])
            cut = [self._cut(batch.left, places), self._cut(batch.left[last], ends)]
            eyes = augment(torch.cat(cut), self.augmentation, generator).chunk(2)
        is_followed = torch.zeros_like(last, dtype=torch.bool).index_copy(0, first, score >= self.least)
        large = torch.stack(eyes, 1)
        return TrackedViews(large, large[:, :0], is_followed)

    def _cut(self, images: Tensor, places: Tensor) -> Tensor:
        """Return the patches at these places as float RGB [B, 3, size, size] in [0, 1]."""
        centres = (places.flip(1) + self.side / 2) / SIDE
        windows = torch.cat([centres, torch.full_like(centres, self.side / 2 / SIDE)], 1)
        return to_rgb(crop(images, windows[:, None], self.size))


def drawn_places(change: Tensor, side: int, generator: Generator) -> Tensor:
    """Draw the upper left cell of a patch of each picture, in proportion to the change in it: row and column, int64 [B, 2].

    change: float [B, SIDE, SIDE] >= 0. The largest logarithm with Gumbel noise is such a draw.
    """
    sums = F.avg_pool2d(change[:, None], side, stride=1).flatten(1)
    chances = torch.rand(sums.shape, device=sums.device, generator=generator).clamp_min(1e-9)
    number = (sums.clamp_min(1e-9).log() - (-chances.log()).log()).argmax(1)
    across = SIDE - side + 1
    return torch.stack([number // across, number % across], 1)


def followed(small: Tensor, tracks: Tensor, places: Tensor, side: int, radius: int) -> tuple[Tensor, Tensor]:
    """Follow patches from picture to picture: their last places, int64 [N, 2], and the least correlation on the way, [N].

    small: grey pictures, float [B, SIDE, SIDE]; tracks: rows, int64 [N, k]; places: upper left cells in the first ones, [N, 2].
    """
    score = torch.ones(len(tracks), device=small.device)
    patch = _square(small[tracks[:, 0]], places, side)
    for rows in tracks[:, 1:].unbind(1):
        corner = (places - radius).clamp(0, SIDE - side - 2 * radius)
        around = _square(small[rows], corner, side + 2 * radius)
        candidates = _unit(F.unfold(around[:, None], side).mT)
        best, number = (candidates @ _unit(patch.flatten(1))[..., None])[..., 0].max(1)
        places = corner + torch.stack([number // (2 * radius + 1), number % (2 * radius + 1)], 1)
        patch = _square(small[rows], places, side)
        score = torch.minimum(score, best)
    return places, score


def _square(pictures: Tensor, corners: Tensor, side: int) -> Tensor:
    """Cut a square out of each picture [N, SIDE, SIDE]: [N, side, side]."""
    cells = torch.arange(side, device=pictures.device)
    rows, columns = corners[:, 0, None] + cells, corners[:, 1, None] + cells
    return pictures[torch.arange(len(pictures), device=cells.device)[:, None, None], rows[:, :, None], columns[:, None]]


def _unit(patches: Tensor) -> Tensor:
    """Scale patches [..., P] to mean 0 and length 1; one without any contrast becomes 0."""
    return F.normalize(patches - patches.mean(-1, keepdim=True), dim=-1, eps=1e-3)
