"""A crop of one eye, of which some patches are hidden: any ones (He et al. 2022, MAE, section 3), or a square block.

A block is what has to be guessed from its surroundings (Pathak et al. 2016, context encoders; Assran et al. 2023, I-JEPA).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from learner.bounds import Bound
from learner.errors import SettingsError
from learner.networks.encoder import Encoder
from learner.views.contract import Batch, Views
from learner.views.one_eye import OneEyeConfig


@dataclass(frozen=True, slots=True)
class MaskedViews(Views):
    """One large view. shown, hidden: int [B, n], the numbers of the patches that the encoder sees and does not see."""

    shown: Tensor
    hidden: Tensor

    @property
    def patches_across(self) -> int:
        """Patches along a side of the view."""
        return math.isqrt(self.shown.shape[1] + self.hidden.shape[1])

    def pictures(self) -> dict[str, Tensor]:
        """Return the view, and beside it what is left of it."""
        count, size, side = len(self.large), self.large.shape[-1], self.patches_across
        mask = torch.zeros(count, side * side, device=self.large.device).scatter_(1, self.shown, 1.0)
        mask = mask.view(count, 1, side, side).repeat_interleave(size // side, 2).repeat_interleave(size // side, 3)
        return {"large": torch.stack([self.large[:, 0], self.large[:, 0] * mask], 1)}


@dataclass(frozen=True, kw_only=True)
class MasksConfig(OneEyeConfig):
    """Crops anywhere on one of the eyes, with hidden patches."""

    name = "masks"

    hidden: Annotated[float, Bound(gt=0, lt=1)] = 0.75
    """Share of the patches that is hidden."""

    @property
    def count(self) -> int:
        """See ViewsConfig."""
        return 1

    def maker(self, encoder: Encoder) -> MaskMaker:
        """See ViewsConfig. Raises SettingsError for a backbone that has no tokens to leave out."""
        encoder.require("some tokens", f"views {self.name}")
        encoder.require_sizes(self, "size")
        patches = (self.size // encoder.patch_size) ** 2
        shown = round(patches * (1 - self.hidden))
        if not 0 < shown < patches:
            raise SettingsError(
                f"views: of {patches} patches a share of {self.hidden} cannot be hidden: take a larger size"
            )
        return MaskMaker(self, patches, shown)


class MaskMaker:
    """Makes the views. patches: how many a view has; shown: how many of them the encoder sees."""

    def __init__(self, config: MasksConfig, patches: int, shown: int) -> None:
        self.config = config
        self.patches = patches
        self.shown = shown

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: Generator) -> MaskedViews:
        """Return a crop of one eye of each pair, chosen by chance, and its patches in a random order."""
        large = self.config.crop(batch, generator)[:, None]
        order = torch.rand(len(large), self.patches, device=large.device, generator=generator).argsort(1)
        return MaskedViews(large, large[:, :0], order[:, : self.shown], order[:, self.shown :])


@dataclass(frozen=True, kw_only=True)
class BlockConfig(OneEyeConfig):
    """Crops anywhere on one of the eyes, of which a square block is hidden."""

    name = "block"

    hidden: Annotated[float, Bound(gt=0, lt=1)] = 0.25
    """Share of the crop that is hidden, to the nearest whole number of patches along a side."""

    @property
    def count(self) -> int:
        """See ViewsConfig."""
        return 1

    def maker(self, encoder: Encoder) -> BlockMaker:
        """See ViewsConfig. Raises SettingsError for a backbone that has no tokens to leave out."""
        encoder.require("some tokens", f"views {self.name}")
        encoder.require_sizes(self, "size")
        across = self.size // encoder.patch_size
        side = round(across * self.hidden**0.5)
        if not 0 < side < across:
            raise SettingsError(
                f"views: a block of {self.hidden} of {across} x {across} patches cannot be hidden: take a larger size"
            )
        return BlockMaker(self, across, side)


class BlockMaker:
    """Makes the views. across, side: patches along a side of the crop and of the block."""

    def __init__(self, config: BlockConfig, across: int, side: int) -> None:
        self.config = config
        self.across = across
        self.side = side

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: Generator) -> MaskedViews:
        """Return a crop of one eye of each pair, chosen by chance; the block lies anywhere in it."""
        large = self.config.crop(batch, generator)[:, None]
        room = self.across - self.side + 1
        corner = (
            (torch.rand(2, len(large), 1, device=large.device, generator=generator) * room).long().clamp_max(room - 1)
        )
        steps = torch.arange(self.across, device=large.device)
        rows, columns = ((steps >= first) & (steps < first + self.side) for first in corner)
        is_hidden = (rows[:, :, None] & columns[:, None]).flatten(1)
        order = is_hidden.long().argsort(dim=1, stable=True)
        shown = self.across**2 - self.side**2
        return MaskedViews(large, large[:, :0], order[:, :shown], order[:, shown:])
