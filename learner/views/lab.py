"""A crop of one eye as its lightness, and as its colours: the channels of CIE Lab.

They are what colourisation and the split-brain autoencoder guess from each other (Zhang et al. 2016 and 2017), and the two views
of contrastive multiview coding (Tian et al. 2020, CMC, section 4.1), here with one encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from learner.networks.encoder import Encoder
from learner.views.contract import Batch, Views
from learner.views.one_eye import OneEyeConfig

_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.950456, 1.0, 1.088754)
"""From linear sRGB to XYZ, and the white D65 (ITU-R BT.709)."""


@dataclass(frozen=True, kw_only=True)
class LabConfig(OneEyeConfig):
    """Two large views: L / 100 in each channel, a grey image; and (1/2, a / 256 + 1/2, b / 256 + 1/2), which is no RGB."""

    name = "lab"

    @property
    def count(self) -> int:
        """See ViewsConfig."""
        return 2

    def maker(self, encoder: Encoder) -> LabMaker:
        """See ViewsConfig."""
        encoder.require_sizes(self, "size")
        return LabMaker(self)


class LabMaker:
    """Makes the views."""

    def __init__(self, config: LabConfig) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: Generator) -> Views:
        """Return the lightness, and behind it the colours."""
        large = torch.stack(light_and_colours(self.config.crop(batch, generator)), 1)
        return Views(large, large[:, :0])


def light_and_colours(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two views of `LabConfig` of images, float RGB [B, 3, S, S] in [0, 1]; each of the same shape and range."""
    with torch.autocast(rgb.device.type, enabled=False):
        lab = to_lab(rgb)
    lightness, middle = (lab[:, :1] / 100).expand_as(lab), torch.full_like(lab[:, :1], 0.5)
    return lightness.clamp(0, 1), torch.cat([middle, lab[:, 1:] / 256 + 0.5], 1).clamp(0, 1)


def to_lab(rgb: Tensor) -> Tensor:
    """Map sRGB, float [B, 3, H, W] in [0, 1], to CIE Lab (CIE 1976, D65): L in 0 to 100, a and b within -128 to 128."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).clamp_min(0).pow(2.4), rgb / 12.92)
    matrix = rgb.new_tensor(_XYZ) / rgb.new_tensor(_WHITE)[:, None]
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear)
    x, y, z = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(0).pow(1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)
