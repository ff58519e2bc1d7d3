"""One eye of each pair: a crop anywhere on it, which other views begin with, or the whole of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from learner.bounds import Count
from learner.errors import SettingsError
from learner.networks.encoder import Encoder
from learner.views.augment import Augmentation, augment
from learner.views.contract import Batch, MakeViews, Views, ViewsConfig
from learner.views.crops import crop, shrink, to_rgb, windows_anywhere

PLAIN = Augmentation(jitter=0.0, grey=0.0, blur=0.0)
"""Mirrored only: the pixels are what is learned."""


@dataclass(frozen=True, kw_only=True)
class OneEyeConfig(ViewsConfig):
    """The settings of the crop."""

    presets = {"cpu": {"size": 32}}

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
        with torch.autocast(batch.left.device.type, enabled=False):
            eye, is_left = one_eye(batch, generator)
            windows = self.windows(batch, is_left, generator)
            return augment(to_rgb(crop(eye, windows, self.size)), self.augmentation, generator)

    def windows(self, batch: Batch, is_left: Tensor, generator: Generator) -> Tensor:
        """Return where the crops lie, float [B, 1, 4]; is_left: bool [B, 1, 1, 1], whether each is one of the left eye."""
        return windows_anywhere(batch.aspect, 1, scale=self.scale, generator=generator)


@dataclass(frozen=True, kw_only=True)
class WholeConfig(ViewsConfig):
    """One large view: the image of one eye squeezed onto a square, as the camera gives it, neither cut nor recoloured."""

    name = "whole"
    presets = {"cpu": {"size": 32}}

    size: Count = 224
    """Side of the square, pixels."""

    @property
    def count(self) -> int:
        """See ViewsConfig."""
        return 1

    @property
    def probe_size(self) -> int:
        """See ViewsConfig."""
        return self.size

    def maker(self, encoder: Encoder) -> MakeViews:
        """See ViewsConfig."""
        encoder.require_sizes(self, "size")
        return self._views

    @torch.no_grad()
    def _views(self, batch: Batch, generator: Generator) -> Views:
        with torch.autocast(batch.left.device.type, enabled=False):
            large = to_rgb(shrink(one_eye(batch, generator)[0], self.size))[:, None]
        return Views(large, large[:, :0])


def one_eye(batch: Batch, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return one eye of each pair, chosen by chance, [B, H, W, 3], and whether it is the left one, bool [B, 1, 1, 1].

    All pairs of a clip have the same one.
    """
    is_left = (torch.rand(len(batch), 1, 1, 1, device=batch.left.device, generator=generator) < 0.5)[batch.starts()]
    return torch.where(is_left, batch.left, batch.right), is_left
