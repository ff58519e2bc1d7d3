"""How much of a picture came out of an autoencoder again: its light, its contrast, and its colour, each for itself.

The author of the live-video experiment saw them come in this order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.distributed import collectives
from learner.parts.meaning import Meaning
from learner.views.augment import grey

EXPLAINED = {
    "explained_light": Meaning("ratio", "Of the differences in brightness between pictures, what came out; 1 is all."),
    "explained_contrast": Meaning("ratio", "Of light and dark within a picture, what came out; 1 is all."),
    "explained_colour": Meaning("ratio", "Of the colours of a picture, what came out; 1 is all."),
}


@torch.no_grad()
def explained(pictures: Tensor, made: Tensor) -> dict[str, Tensor]:
    """Return 1 - squared error / sum of squares of the three parts that add up to a picture, over the pairs of all processes.

    pictures, made: RGB [B, 3, S, S]. The brightness is the mean of the grey; its sum of squares is that around the batch's mean.
    """
    rows = []
    for wanted, found in zip(_parts(pictures), _parts(made), strict=True):
        rows += [(found - wanted).square().flatten(1).mean(1), wanted.square().flatten(1).mean(1)]
    light = _parts(pictures)[0].flatten(1).mean(1)
    means = collectives.all_rows(torch.stack([*rows, light], 1)).mean(0)
    sums = torch.stack([means[1] - means[6].square(), means[3], means[5]])
    shares = 1 - means[0:6:2] / sums.clamp_min(1e-9)
    return dict(zip(EXPLAINED, shares, strict=True))


def _parts(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split pictures into their brightness, [B, 1, 1, 1], the rest of their grey, and the rest."""
    shades = grey(rgb)
    light = shades[:, :1].mean((2, 3), keepdim=True)
    return light, shades[:, :1] - light, rgb - shades
