"""A crop of one eye, of which a random part of the patches is hidden (He et al. 2022, MAE, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

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

    def pictures(self) -> dict[str, Tensor]:
        """Return the view, and beside it what is left of it."""
        count, size = len(self.large), self.large.shape[-1]
        side = round((self.shown.shape[1] + self.hidden.shape[1]) ** 0.5)
        mask = torch.zeros(count, side * side, device=self.large.device).scatter_(1, self.shown, 1.0)
        mask = mask.view(count, 1, side, side).repeat_interleave(size // side, 2).repeat_interleave(size // side, 3)
        return {"large": torch.stack([self.large[:, 0], self.large[:, 0] * mask], 1)}


@dataclass(frozen=True, kw_only=True)
class MasksConfig(OneEyeConfig):
    """Crops anywhere on one of the eyes, with hidden patches."""

    name: ClassVar[str] = "masks"

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
