"""From whole pairs to the crops an objective learns from: pure functions on whole batches, on the compute device.

Shapes: B pairs, N crops a pair, h w a map's grid. A **window** is (centre_x, centre_y, half_width, half_height) as fractions
of the image's width and height, so that one window means the same place in the left and in the right image and at any
resolution. Pairs lie in memory squeezed onto one canvas size; `aspect` (width / height of the original) lets a window be
square on the original scene, so that static shapes cost no distortion. All randomness comes from the generator passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, Tensor

from learner.errors import SettingsError


def to_rgb(bgr: Tensor) -> Tensor:
    """BGR [B, 3, H, W] in 0 to 255 of any type to float RGB in [0, 1]: the house's one flip of colours.

    For what was cut or shrunk: whole images have ten times the pixels.
    """
    return bgr.flip(1).float().div_(255)


def shrink(images: Tensor, size: int) -> Tensor:
    """Squeeze uint8 [B, H, W, 3] onto a square of `size` pixels, antialiased, to whole numbers again: [B, 3, size, size]."""
    planes = images.permute(0, 3, 1, 2)
    if planes.device.type == "cpu":  # there whole numbers take a twentieth of the time; a GPU has no kernel for them
        return F.interpolate(planes, (size, size), mode="bilinear", antialias=True)
    return F.interpolate(planes.float(), (size, size), mode="bilinear", antialias=True).round_()


def fit_gaussian(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of position under attention maps [B, h, w] that sum to 1 (seed 000, section 2).

    Both [B, 2] as (x, y) in fractions of the image; a patch's mass lies at its centre.
    """
    height, width = maps.shape[-2:]
    xs = (torch.arange(width, device=maps.device) + 0.5) / width
    ys = (torch.arange(height, device=maps.device) + 0.5) / height
    over_x, over_y = maps.sum(-2), maps.sum(-1)
    mean = torch.stack([over_x @ xs, over_y @ ys], -1)
    second = torch.stack([over_x @ xs.square(), over_y @ ys.square()], -1)
    return mean, (second - mean.square()).clamp_min(0).sqrt()


def focus_window(mean: Tensor, std: Tensor, aspect: Tensor, *, sigmas: float, smallest: float) -> Tensor:
    """The window around the attention: [B, 4], square on the scene, wholly inside the image.

    Its half side is `sigmas` standard deviations (the root mean square of both axes, in image heights), at least half of
    `smallest` and at most half of the image's shorter side; near a border it is moved inside rather than cut.
    """
    in_heights = torch.stack([std[:, 0] * aspect, std[:, 1]], -1)
    half = sigmas * in_heights.square().mean(-1).sqrt()
    shorter = aspect.clamp_max(1)
    half = torch.minimum(half.clamp_min(smallest / 2 * shorter), shorter / 2)
    halves = torch.stack([half / aspect, half], -1)
    return torch.cat([torch.minimum(torch.maximum(mean, halves), 1 - halves), halves], -1)


def windows_inside(window: Tensor, count: int, *, scale: tuple[float, float], generator: Generator) -> Tensor:
    """`count` random windows inside each of `window` [B, 4]: [B, N, 4], sides `scale` times the outer one's, uniform."""
    shape, device = (len(window), count), window.device
    share = torch.empty(shape, device=device).uniform_(*scale, generator=generator)
    shift = torch.empty((*shape, 2), device=device).uniform_(-1, 1, generator=generator)
    centre, half = window[:, None, :2], window[:, None, 2:]
    return torch.cat([centre + shift * (1 - share[..., None]) * half, half * share[..., None]], -1)


def crop(images: Tensor, windows: Tensor, size: int) -> Tensor:
    """Cut `windows` [B, N, 4] out of images [B, H, W, 3] at `size` pixels a side: float [B * N, 3, size, size], bilinear."""
    planes, count = images.permute(0, 3, 1, 2).float(), windows.shape[1]
    centre, half = windows[..., :2].flatten(0, 1), windows[..., 2:].flatten(0, 1)
    steps = (torch.arange(size, device=images.device) + 0.5) / size * 2 - 1
    xs = (centre[:, :1] + half[:, :1] * steps) * 2 - 1
    ys = (centre[:, 1:] + half[:, 1:] * steps) * 2 - 1
    grid = torch.stack([xs[:, None, :].expand(-1, size, -1), ys[:, :, None].expand(-1, -1, size)], -1)
    # All crops of one image are sampled in one call, stacked along the height: the image itself is never repeated.
    grid = grid.reshape(len(images), count * size, size, 2)
    tall = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return tall.reshape(len(images), 3, count, size, size).transpose(1, 2).flatten(0, 1)


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

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey of a pixel."""


def augment(rgb: Tensor, settings: Augmentation, generator: Generator) -> Tensor:
    """Augment each image of float [B, 3, S, S] in [0, 1] on its own; the result is in [0, 1] again.

    All that is drawn is drawn for every image, and what it is to be spared gets the amount that changes nothing: shapes stay
    the same, and most operations become one product.
    """
    count = len(rgb)

    def chance(probability: float) -> Tensor:
        return torch.rand(count, 1, 1, 1, device=rgb.device, generator=generator) < probability

    def factor(low: float, high: float) -> Tensor:
        return torch.empty(count, 1, 1, 1, device=rgb.device).uniform_(low, high, generator=generator)

    rgb = torch.where(chance(settings.flip), rgb.flip(-1), rgb)
    rgb = _jitter(rgb, settings, chance(settings.jitter), factor)
    rgb = _coloured(
        rgb, torch.where(chance(settings.grey).view(-1, 1, 1), _grey_matrix(rgb.device), _identity(rgb.device))
    )
    if settings.blur:
        is_blurred, sigma = chance(settings.blur).flatten(), factor(0.1, 2.0).flatten() * rgb.shape[-1] / 224
        rgb = blur(rgb, torch.where(is_blurred, sigma, 0.0))
    if settings.solarise:
        rgb = torch.where(chance(settings.solarise) & (rgb >= 0.5), 1 - rgb, rgb)
    return rgb.clamp_(0, 1)  # weights that sum to 1 may round a hair above


def _jitter(rgb: Tensor, settings: Augmentation, chosen: Tensor, factor: Callable[[float, float], Tensor]) -> Tensor:
    """Brightness, contrast, saturation and hue, in this order, where `chosen`."""

    def amount(strength: float) -> Tensor:
        return torch.where(chosen, factor(1 - strength, 1 + strength), 1.0)

    rgb = (rgb * amount(settings.brightness)).clamp_(0, 1)
    mean = (rgb.mean((2, 3)) @ _grey_matrix(rgb.device)[0, :, None]).view(-1, 1, 1, 1)
    rgb = torch.lerp(mean, rgb, amount(settings.contrast)).clamp_(0, 1)
    saturation = torch.lerp(_grey_matrix(rgb.device), _identity(rgb.device), amount(settings.saturation).view(-1, 1, 1))
    turns = torch.where(chosen, factor(-settings.hue, settings.hue), 0.0).flatten()
    return _coloured(rgb, hue_matrix(turns) @ saturation).clamp_(0, 1)


def _coloured(rgb: Tensor, matrices: Tensor) -> Tensor:
    """Each pixel of an image [B, 3, S, S] through the image's matrix [B, 3, 3]."""
    return torch.bmm(matrices, rgb.flatten(2)).view_as(rgb)


@cache
def _grey_matrix(device: torch.device) -> Tensor:
    """[3, 3]: every colour becomes the grey of the pixel. Made once: each copy of a constant to a GPU would wait for it."""
    return torch.tensor([LUMA] * 3, device=device)


@cache
def _identity(device: torch.device) -> Tensor:
    return torch.eye(3, device=device)


def hue_matrix(turns: Tensor) -> Tensor:
    """Rotations of colours about the grey axis by `turns` [B]: [B, 3, 3], one product instead of a trip through HSV."""
    cos, sin = (2 * math.pi * turns).cos(), (2 * math.pi * turns).sin()
    third, root = (1 - cos) / 3, sin / math.sqrt(3)
    own, next_, last = cos + third, third - root, third + root
    return torch.stack([own, next_, last, last, own, next_, next_, last, own], -1).view(-1, 3, 3)


def blur(rgb: Tensor, sigma: Tensor) -> Tensor:
    """Separable Gaussian blur, a standard deviation in pixels for each image [B]; the kernel spans a tenth of the image.

    0 changes nothing. The border is reflected. As two products with a matrix an image: a convolution with a kernel of its own
    for each image is slow on every device.
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
