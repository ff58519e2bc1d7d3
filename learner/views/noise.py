"""A crop of one eye, and the same crop with noise (Vincent et al. 2010, denoising autoencoders, sections 3.2 and 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from learner.bounds import NotNegative, Share
from learner.networks.encoder import Encoder
from learner.views.contract import Batch, Views
from learner.views.one_eye import OneEyeConfig


@dataclass(frozen=True, kw_only=True)
class NoiseConfig(OneEyeConfig):
    """Two large views: the crop as it is, and with noise."""

    name = "noise"

    sigma: NotNegative = 0.2
    """Largest standard deviation of the Gaussian noise, of the range of values; each pair draws its own."""
    destroyed: Share = 0.25
    """Share of the pixels that become black."""

    @property
    def count(self) -> int:
        """See ViewsConfig."""
        return 2

    def maker(self, encoder: Encoder) -> NoiseMaker:
        """See ViewsConfig."""
        encoder.require_sizes(self, "size")
        return NoiseMaker(self)


class NoiseMaker:
    """Makes the views."""

    def __init__(self, config: NoiseConfig) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: Generator) -> Views:
        """Return the crop, and behind it the one with noise."""
        rgb, config = self.config.crop(batch, generator), self.config
        count, _, *sides = rgb.shape
        sigma = config.sigma * torch.rand(count, 1, 1, 1, device=rgb.device, generator=generator)
        noisy = (rgb + sigma * torch.randn(rgb.shape, device=rgb.device, generator=generator)).clamp(0, 1)
        is_kept = torch.rand(count, 1, *sides, device=rgb.device, generator=generator) >= config.destroyed
        large = torch.stack([rgb, noisy * is_kept], 1)
        return Views(large, large[:, :0])
