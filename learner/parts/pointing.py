"""Copying by pointing: what the patches of a picture take over from those of others (Vondrick et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor


def point(asking: Tensor, shown: Tensor, values: Tensor, temperature: float) -> Tensor:
    """Return for each asking patch the mean of the values of those shown, weighted by the softmax of the products: [W, T, C].

    asking: float [W, T, D]; shown: float [W, N, D]; values: float [W, N, C]; temperature: above 0.
    """
    with torch.autocast(asking.device.type, enabled=False):
        return (asking @ shown.mT / temperature).softmax(-1) @ values


def carried(rows: Tensor, labels: Tensor, *, references: int = 3, temperature: float = 0.5) -> Tensor:
    """Carry the labels of the patches of the first picture along a clip: float [n, T, C].

    rows: float [n, T, D], projections of the patches of n pictures in the order of time; labels: float [T, C], such as the share
    of each thing in a patch. Each later picture copies from those before it, `references` at most, what they have copied
    themselves.
    """
    known = [labels]
    for number in range(1, len(rows)):
        first = max(0, number - references)
        before = rows[first:number].flatten(0, 1)[None]
        known.append(point(rows[number, None], before, torch.cat(known[first:])[None], temperature)[0])
    return torch.stack(known)
