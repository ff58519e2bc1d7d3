"""Patches of images as rows of numbers."""

from __future__ import annotations

from torch import Tensor


def patches_of(images: Tensor, side: int) -> Tensor:
    """Cut images [B, 3, S, S] into patches in the order of lines of text: [B, T, 3 * side * side]."""
    planes = images.unfold(2, side, side).unfold(3, side, side)
    return planes.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def unpatched(patches: Tensor, side: int) -> Tensor:
    """Put patches [B, T, 3 * side * side] of square images together again: [B, 3, S, S]."""
    across = round(patches.shape[1] ** 0.5)
    return patches.view(-1, across, across, 3, side, side).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def scaled(patches: Tensor) -> Tensor:
    """Scale each patch [..., P] to mean 0 and variance 1 (He et al. 2022, MAE, section 3)."""
    return (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()


def at(patches: Tensor, numbers: Tensor) -> Tensor:
    """Return the patches [B, n, P] of [B, T, P] with these numbers, int [B, n]."""
    return patches.gather(1, numbers[..., None].expand(-1, -1, patches.shape[-1]))
