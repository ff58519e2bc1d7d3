"""A crop anywhere on one of the eyes of each pair: what views begin with that need a single image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from learner.bounds import Count
from learner.errors import SettingsError
from learner.views.augment import Augmentation, augment
from learner.views.contract import Batch, ViewsConfig
from learner.views.crops import crop, to_rgb, windows_anywhere

PLAIN = Augmentation(jitter=0.0, grey=0.0, blur=0.0)
"""Mirrored only: the pixels are what is learned."""


@dataclass(frozen=True, kw_only=True)
class OneEyeConfig(ViewsConfig):
    """The settings of the crop."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"cpu": {"size": 32}}

    size: Count = 224
    """Side in pixels of the crop."""
    scale: tuple[float, float] = (0.4, 1.0)
    """Side of the crop, as a share of the image's shorter side."""
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

    @torch.no_grad()
    def crop(self, batch: Batch, generator: Generator) -> Tensor:
        """Return an augmented crop of one eye of each pair, chosen by chance: float RGB [B, 3, size, size] in [0, 1]."""
        count, device = len(batch), batch.left.device
        with torch.autocast(device.type, enabled=False):
            is_left = torch.rand(count, 1, 1, 1, device=device, generator=generator) < 0.5
            eye = torch.where(is_left, batch.left, batch.right)
            windows = self.windows(batch, is_left, generator)
            return augment(to_rgb(crop(eye, windows, self.size)), self.augmentation, generator)

    def windows(self, batch: Batch, is_left: Tensor, generator: Generator) -> Tensor:
        """Return where the crops lie, float [B, 1, 4]; is_left: bool [B, 1, 1, 1], whether each is one of the left eye."""
        return windows_anywhere(batch.aspect, 1, scale=self.scale, generator=generator)
