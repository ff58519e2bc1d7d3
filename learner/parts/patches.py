"""Patches of images as rows of numbers, and their places."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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


class PlaceRemoval(nn.Module):
    """Learns to read the place of a patch from its token, and takes what it reads out of the token (RASA).

    (Venkataramanan et al. 2025, Franca, removal of absolute spatial attributes.) Each round has a linear layer of
    two outputs, row and column. It learns from the tokens without the directions of the rounds before; then its own two
    directions, made orthonormal, are projected out. No gradient of it reaches the tokens.
    """

    def __init__(self, dim: int, rounds: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, 2, bias=False) for _ in range(rounds))

    def forward(self, tokens: Tensor, numbers: Tensor, across: int) -> tuple[Tensor, Tensor]:
        """Return the tokens [B, n, dim] without their places, and the mean squared error of the places that were read, [B].

        numbers: int [B, n], those of the patches; across: patches along a side. A place is row and column, scaled to [0, 1].
        """
        errors, places = [], torch.stack([numbers // across, numbers % across], -1) / max(across - 1, 1)
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.float()
            for layer in self.layers:
                assert isinstance(layer, nn.Linear)
                guesses = layer(tokens.detach()).sigmoid()
                errors.append((guesses - places).square().mean((1, 2)))
                directions = torch.linalg.qr(layer.weight.detach().T)[0]
                tokens = tokens - tokens @ directions @ directions.T
        return tokens, torch.stack(errors).mean(0)
