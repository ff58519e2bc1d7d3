"""Crops anywhere on both eyes: two large ones, or these and small ones (multi-crop, Caron et al. 2020, SwAV, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from learner.bounds import Count
from learner.errors import SettingsError
from learner.networks.encoder import Encoder
from learner.views.augment import STUDENT_AUGMENTATION, TEACHER_AUGMENTATION, Augmentation, augment
from learner.views.contract import Batch, Views, ViewsConfig
from learner.views.crops import crop, to_rgb, windows_anywhere

_SMALL: Mapping[str, Any] = {
    "size": 32,
    "scale": (0.4, 1.0),
    "left_augmentation": Augmentation(blur=0.0),
    "right_augmentation": Augmentation(blur=0.0, solarise=0.1),
}


@dataclass(frozen=True, kw_only=True)
class TwoConfig(ViewsConfig):
    """Two large crops: one of each eye."""

    name = "two"
    presets = {"cpu": _SMALL}

    size: Count = 224
    """Side in pixels of a large crop."""
    scale: tuple[float, float] = (0.3, 1.0)
    """Side of a large crop, as a share of the image's shorter side."""
    left_augmentation: Augmentation = TEACHER_AUGMENTATION
    right_augmentation: Augmentation = STUDENT_AUGMENTATION

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scale", "small_scale"):
            low, high = getattr(self, name, (1, 1))
            if not 0 < low <= high <= 1:
                raise SettingsError(f"{self.label}: {name} must be 0 < low <= high <= 1, got {(low, high)}")

    @property
    def count(self) -> int:
        """See ViewsConfig."""
        return 2

    @property
    def probe_size(self) -> int:
        """See ViewsConfig."""
        return self.size

    def maker(self, encoder: Encoder) -> CropMaker:
        """See ViewsConfig."""
        encoder.require_sizes(self, "size")
        return CropMaker(self, 0, self.size, self.scale)


@dataclass(frozen=True, kw_only=True)
class MultiConfig(TwoConfig):
    """Two large crops, one of each eye, and small ones, of both eyes in turn."""

    name = "multi"
    presets = {"cpu": {**_SMALL, "crops": 4, "small_size": 24}}

    crops: Count = 8
    """Small crops of a pair."""
    small_size: Count = 96
    """Side in pixels of a small crop."""
    small_scale: tuple[float, float] = (0.2, 0.5)
    """Side of a small crop, as a share of the image's shorter side."""

    @property
    def count(self) -> int:
        """See ViewsConfig."""
        return 2 + self.crops

    def maker(self, encoder: Encoder) -> CropMaker:
        """See ViewsConfig."""
        encoder.require_sizes(self, "size", "small_size")
        return CropMaker(self, self.crops, self.small_size, self.small_scale)


class CropMaker:
    """Makes the crops; small: how many small ones, their side in pixels and their scale."""

    def __init__(self, config: TwoConfig, small: int, small_size: int, small_scale: tuple[float, float]) -> None:
        self.config = config
        self.small = small, small_size, small_scale

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: Generator) -> Views:
        """Return crops whose places are drawn uniformly."""
        with torch.autocast(batch.left.device.type, enabled=False):
            large = self._crops(batch, 2, self.config.size, self.config.scale, generator)
            return Views(large, self._crops(batch, *self.small, generator))

    def _crops(self, batch: Batch, count: int, size: int, scale: tuple[float, float], generator: Generator) -> Tensor:
        """Return [B, count, 3, size, size], the even ones of the left eye."""
        found = torch.empty(len(batch), count, 3, size, size, device=batch.left.device)
        eyes = (batch.left, self.config.left_augmentation), (batch.right, self.config.right_augmentation)
        for first, (images, augmentation) in enumerate(eyes):
            if number := len(range(first, count, 2)):
                windows = windows_anywhere(batch.aspect, number, scale=scale, generator=generator)
                rgb = augment(to_rgb(crop(images, windows, size)), augmentation, generator)
                found[:, first::2] = rgb.view(len(batch), number, 3, size, size)
        return found
