"""Decoders: an embedding becomes a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from learner.errors import SettingsError
from learner.parts.heads import Decoder
from learner.parts.patches import unpatched

DecoderKind = Literal["plain", "convolutional", "transformer"]
CELLS = 4
"""Cells across the picture in the first layer of the convolutional decoder, and patches across that of the transformer."""


def plain(embedding: int, width: int, side: int) -> nn.Module:
    """Return two linear layers. width: that of the hidden layer, in sixteenths; side: of the picture, pixels."""
    hidden = 16 * width
    return nn.Sequential(
        nn.Linear(embedding, hidden), nn.GELU(), nn.Linear(hidden, 3 * side**2), nn.Unflatten(1, (3, side, side))
    )


def convolutional(embedding: int, width: int, side: int) -> nn.Module:
    """Return convolutions that double the sides of CELLS x CELLS cells until they are pixels.

    width: channels of the cells, halved with each doubling, at least 8. Doubling and then convolving leaves no chessboard (Odena
    et al. 2016).
    """
    doublings = (side // CELLS).bit_length() - 1
    if side != CELLS << doublings:
        raise SettingsError(f"views: size {side} must be {CELLS} times a power of 2 for the convolutional decoder")
    widths = [max(8, width >> number) for number in range(doublings + 1)]
    layers: list[nn.Module] = [nn.Linear(embedding, width * CELLS**2), nn.Unflatten(1, (width, CELLS, CELLS))]
    for before, after in pairwise(widths):
        layers += [nn.GELU(), nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)]
    return nn.Sequential(*layers, nn.GELU(), nn.Conv2d(widths[-1], 3, 3, padding=1))


class Transformer(nn.Module):
    """The decoder of MAE, which sees the embedding as its only token and guesses CELLS x CELLS patches."""

    def __init__(self, embedding: int, width: int, side: int) -> None:
        super().__init__()
        if side % CELLS or width % 2:
            raise SettingsError(
                f"views: size {side} must be a multiple of {CELLS}, and objective: width {width} one of 2"
            )
        self.patch = side // CELLS
        self.decoder = Decoder(embedding, width, 2, 2, patches=CELLS**2 + 1, out=3 * self.patch**2)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map embeddings [B, D] to pictures [B, 3, S, S]."""
        numbers = torch.arange(CELLS**2 + 1, device=embeddings.device).expand(len(embeddings), -1)
        return unpatched(self.decoder(embeddings[:, None], numbers[:, -1:], numbers[:, :-1]), self.patch)


DECODERS: Mapping[str, Callable[[int, int, int], Any]] = {
    "plain": plain,
    "convolutional": convolutional,
    "transformer": Transformer,
}
