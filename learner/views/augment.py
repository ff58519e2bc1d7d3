"""Photometric augmentations of whole batches of crops, on the compute device. All randomness comes from a passed generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Generator, Tensor

from learner.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """BYOL's photometric augmentations (Grill et al. 2020, appendix B): probabilities and strengths."""

    flip: float = 0.5
    """Probability of a mirror image."""
    jitter: float = 0.8
    """Probability of the colour jitter."""
    brightness: float = 0.4
    """Largest change of the brightness in the jitter, as a share of it."""
    contrast: float = 0.4
    """Largest change of the contrast, as a share of it."""
    saturation: float = 0.2
    """Largest change of the saturation, as a share of it."""
    hue: float = 0.1
    """Largest turn of the hue, in turns."""
    grey: float = 0.2
    """Probability of an image without colours."""
    blur: float = 1.0
    """Probability of a Gaussian blur with a standard deviation of 0.1 to 2 pixels at 224 pixels, in proportion below."""
    solarise: float = 0.0
    """Probability of solarising: levels above the middle are inverted."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise SettingsError(f"augmentation: {name} must be in [0, 1], got {value}")


TEACHER_AUGMENTATION = Augmentation(blur=1.0, solarise=0.0)
"""BYOL's first view."""
STUDENT_AUGMENTATION = Augmentation(blur=0.1, solarise=0.2)
"""BYOL's second view."""
SOFT_AUGMENTATION = Augmentation(brightness=0.3, contrast=0.3, hue=0.05, grey=0.1, blur=0.0)
"""Less colour jitter than BYOL's, for small images: what it is worth is in `docs/log.md` (2026-11-30)."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey of a pixel."""


def augment(rgb: Tensor, settings: Augmentation, generator: Generator, *, as_in: Tensor | None = None) -> Tensor:
    """Augment each image of float [B, 3, S, S] in [0, 1] independently; the result is in [0, 1] again.

    Every amount is drawn for every image. An image that skips an operation gets the amount that changes nothing: shapes stay the
    same, and most operations become one product. as_in: int [B], the image whose amounts each one takes instead of its own.
    """
    count = len(rgb)
    own = slice(None) if as_in is None else as_in

    def chance(probability: float) -> Tensor:
        return (torch.rand(count, 1, 1, 1, device=rgb.device, generator=generator) < probability)[own]

    def factor(low: float, high: float) -> Tensor:
        return torch.empty(count, 1, 1, 1, device=rgb.device).uniform_(low, high, generator=generator)[own]

    rgb = torch.where(chance(settings.flip), rgb.flip(-1), rgb)
    rgb = _jitter(rgb, settings, chance(settings.jitter), factor)
    is_grey = chance(settings.grey).view(-1, 1, 1)
    rgb = _coloured(rgb, torch.where(is_grey, _grey_matrix(rgb.device), _identity(rgb.device)))
    if settings.blur:
        is_blurred, sigma = chance(settings.blur).flatten(), factor(0.1, 2.0).flatten() * rgb.shape[-1] / 224
        rgb = blur(rgb, torch.where(is_blurred, sigma, 0.0))
    if settings.solarise:
        rgb = torch.where(chance(settings.solarise) & (rgb >= 0.5), 1 - rgb, rgb)
    return rgb.clamp_(0, 1)  # weights that sum to 1 may round to a little more


def _jitter(rgb: Tensor, settings: Augmentation, chosen: Tensor, factor: Callable[[float, float], Tensor]) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order, of the `chosen` images, bool [B, 1, 1, 1]."""

    def amount(strength: float) -> Tensor:
        return torch.where(chosen, factor(1 - strength, 1 + strength), 1.0)

    rgb = (rgb * amount(settings.brightness)).clamp_(0, 1)
    mean = (rgb.mean((2, 3)) @ _grey_matrix(rgb.device)[0, :, None]).view(-1, 1, 1, 1)
    rgb = torch.lerp(mean, rgb, amount(settings.contrast)).clamp_(0, 1)
    saturation = torch.lerp(_grey_matrix(rgb.device), _identity(rgb.device), amount(settings.saturation).view(-1, 1, 1))
    turns = torch.where(chosen, factor(-settings.hue, settings.hue), 0.0).flatten()
    return _coloured(rgb, hue_matrix(turns) @ saturation).clamp_(0, 1)


def _coloured(rgb: Tensor, matrices: Tensor) -> Tensor:
    """Multiply each pixel of images [B, 3, S, S] by the matrix of its image [B, 3, 3]."""
    return torch.bmm(matrices, rgb.flatten(2)).view_as(rgb)


def grey(rgb: Tensor) -> Tensor:
    """Take the colours away from images, float [..., 3, H, W], and keep their three channels."""
    luma = rgb.new_tensor(LUMA).view(3, 1, 1)
    return (rgb * luma).sum(-3, keepdim=True).expand_as(rgb)


@cache
def _grey_matrix(device: torch.device) -> Tensor:
    """Return the matrix [3, 3] that makes every colour grey. Made once, because each copy of a constant waits for the GPU."""
    return torch.tensor([LUMA] * 3, device=device)


@cache
def _identity(device: torch.device) -> Tensor:
    return torch.eye(3, device=device)


def hue_matrix(turns: Tensor) -> Tensor:
    """Return rotations of colours about the grey axis by `turns` [B]: [B, 3, 3], one product instead of HSV and back."""
    cos, sin = (2 * math.pi * turns).cos(), (2 * math.pi * turns).sin()
    third, root = (1 - cos) / 3, sin / math.sqrt(3)
    own, next_, last = cos + third, third - root, third + root
    return torch.stack([own, next_, last, last, own, next_, next_, last, own], -1).view(-1, 3, 3)


def blur(rgb: Tensor, sigma: Tensor) -> Tensor:
    """Blur images [B, 3, S, S] by a Gaussian; sigma: float [B], standard deviation in pixels, 0 changes nothing.

    The kernel spans a tenth of the image, whose border is reflected. Each image is multiplied by a matrix twice: a convolution
    with a different kernel for each image is slow on every device.
    """
    size = rgb.shape[-1]
    radius = max(1, size // 20)
    offsets = torch.arange(-radius, radius + 1, device=rgb.device)
    kernel = torch.softmax(-offsets.square() / (2 * sigma[:, None].square().clamp_min(1e-12)), -1)
    taken = torch.arange(size, device=rgb.device)[:, None] + offsets
    taken = size - 1 - (size - 1 - taken.abs()).abs()  # reflected at both ends
    matrices = torch.zeros(len(rgb), size, size, device=rgb.device)
    matrices.scatter_add_(2, taken.expand(len(rgb), -1, -1), kernel[:, None, :].expand(-1, size, -1))
    return matrices[:, None] @ rgb @ matrices.mT[:, None]
