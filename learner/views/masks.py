"""A crop of one eye, of which a random part of the patches is hidden (He et al. 2022, MAE, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Generator, Tensor

from learner.bounds import Bound, Count
from learner.errors import SettingsError
from learner.networks.encoder import Encoder
from learner.views.augment import Augmentation, augment
from learner.views.contract import Batch, Views, ViewsConfig
from learner.views.crops import crop, to_rgb, windows_anywhere

PLAIN = Augmentation(jitter=0.0, grey=0.0, blur=0.0)
"""Mirrored only: the pixels are what is learned."""


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
class MasksConfig(ViewsConfig):
    """Crops anywhere on one of the eyes, with hidden patches."""

    name: ClassVar[str] = "masks"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"cpu": {"size": 32}}

    size: Count = 224
    """Side in pixels of the crop."""
    scale: tuple[float, float] = (0.4, 1.0)
    """Side of the crop, as a share of the image's shorter side."""
    hidden: Annotated[float, Bound(gt=0, lt=1)] = 0.75
    """Share of the patches that is hidden."""
    augmentation: Augmentation = PLAIN

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise SettingsError(f"{self.label}: scale must be 0 < low <= high <= 1, got {self.scale}")

    @property
    def probe_size(self) -> int:
        """See ViewsConfig."""
        return self.size

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
        config, count, device = self.config, len(batch), batch.left.device
        with torch.autocast(device.type, enabled=False):
            is_left = torch.rand(count, 1, 1, 1, device=device, generator=generator) < 0.5
            windows = windows_anywhere(batch.aspect, 1, scale=config.scale, generator=generator)
            rgb = to_rgb(crop(torch.where(is_left, batch.left, batch.right), windows, config.size))
            large = augment(rgb, config.augmentation, generator)[:, None]
        order = torch.rand(count, self.patches, device=device, generator=generator).argsort(1)
        return MaskedViews(large, large[:, :0], order[:, : self.shown], order[:, self.shown :])
