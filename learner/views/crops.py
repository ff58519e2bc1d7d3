"""Crops of whole pairs that an objective learns from: pure functions on whole batches, on the compute device.

Shapes: B pairs, N crops of each, h and w the grid of a map. A **window** is (centre_x, centre_y, half_width, half_height) as
fractions of the width and height of the image, so that one window is the same place in the left and in the right image and at
any resolution. Memory holds pairs squeezed onto one canvas; with `aspect` (width / height of the original) a window is square
on the original scene, so that static shapes cause no distortion. All randomness comes from a passed generator.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, Tensor


def to_rgb(bgr: Tensor) -> Tensor:
    """Turn BGR [B, 3, H, W] in 0 to 255 of any type into float RGB in [0, 1]; colours are flipped nowhere else.

    It is called after images were cut or shrunk: whole images have ten times the pixels.
    """
    return bgr.flip(1).float().div_(255)


def shrink(images: Tensor, size: int) -> Tensor:
    """Squeeze images, uint8 [B, H, W, 3], onto a square of `size` pixels, antialiased and rounded: [B, 3, size, size]."""
    planes = images.permute(0, 3, 1, 2)
    if planes.device.type == "cpu":  # on the CPU integers take a twentieth of the time; a GPU has no kernel for them
        return F.interpolate(planes, (size, size), mode="bilinear", antialias=True)
    return F.interpolate(planes.float(), (size, size), mode="bilinear", antialias=True).round_()


def fit_gaussian(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the position under attention maps [B, h, w] that sum to 1.

    Both are [B, 2], (x, y) as fractions of the image; the mass of a patch lies at its centre. (Original experiment, section 2.)
    """
    height, width = maps.shape[-2:]
    xs = (torch.arange(width, device=maps.device) + 0.5) / width
    ys = (torch.arange(height, device=maps.device) + 0.5) / height
    over_x, over_y = maps.sum(-2), maps.sum(-1)
    mean = torch.stack([over_x @ xs, over_y @ ys], -1)
    second = torch.stack([over_x @ xs.square(), over_y @ ys.square()], -1)
    return mean, (second - mean.square()).clamp_min(0).sqrt()


def focus_window(mean: Tensor, std: Tensor, aspect: Tensor, *, sigmas: float, smallest: float) -> Tensor:
    """Return the window around the attention: [B, 4], square on the scene and wholly inside the image.

    mean, std: [B, 2]; aspect: [B]. Its half side is `sigmas` standard deviations (the root mean square of both axes), at least
    half of `smallest` and at most half of the image's shorter side. Near a border it is moved inside and not cut.
    """
    in_heights = torch.stack([std[:, 0] * aspect, std[:, 1]], -1)
    half = sigmas * in_heights.square().mean(-1).sqrt()
    shorter = aspect.clamp_max(1)
    half = torch.minimum(half.clamp_min(smallest / 2 * shorter), shorter / 2)
    halves = torch.stack([half / aspect, half], -1)
    return torch.cat([torch.minimum(torch.maximum(mean, halves), 1 - halves), halves], -1)


def windows_inside(window: Tensor, count: int, *, scale: tuple[float, float], generator: Generator) -> Tensor:
    """Return `count` random windows inside each `window` [B, 4]: [B, N, 4].

    Their sides are the outer side times a uniform factor within `scale`.
    """
    shape, device = (len(window), count), window.device
    share = torch.empty(shape, device=device).uniform_(*scale, generator=generator)
    shift = torch.empty((*shape, 2), device=device).uniform_(-1, 1, generator=generator)
    centre, half = window[:, None, :2], window[:, None, 2:]
    return torch.cat([centre + shift * (1 - share[..., None]) * half, half * share[..., None]], -1)


def windows_anywhere(aspect: Tensor, count: int, *, scale: tuple[float, float], generator: Generator) -> Tensor:
    """Return `count` random windows for each image, square on the scene and wholly inside: [B, N, 4].

    aspect: [B]. Their sides are the image's shorter side times a uniform factor within `scale`; each place is equally likely.
    """
    shape, device = (len(aspect), count), aspect.device
    half = torch.empty(shape, device=device).uniform_(*scale, generator=generator) * aspect.clamp_max(1)[:, None] / 2
    halves = torch.stack([half / aspect[:, None], half], -1)
    place = torch.rand((*shape, 2), device=device, generator=generator)
    return torch.cat([halves + place * (1 - 2 * halves), halves], -1)


def crop(images: Tensor, windows: Tensor, size: int) -> Tensor:
    """Cut `windows` [B, N, 4] out of images [B, H, W, 3], bilinear: float [B * N, 3, size, size] in 0 to 255."""
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
