"""Low-rank corrections of the weights of an encoder: W = W_start + strength * up @ down (Hu et al. 2021, LoRA, section 4.1).

The encoder's own weights always hold the sum. So whatever reads them (teachers that follow, probes, exports, snapshots, a fork)
sees a plain timm backbone, and there is nothing left to merge. Only a training step computes the sum again, with gradient.
The price is that the gradient of each whole matrix is computed on the way to that of its correction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Lora(nn.Module):
    """The corrections of some weights of a network.

    weights: those that are corrected, by name; they stay frozen. sizes: rows and columns of each as a matrix. start: the weights
    from which the corrections count, with the same names; it is read at each step and may be filled later.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        sizes: Mapping[str, tuple[int, int]],
        start: Mapping[str, Tensor],
        *,
        rank: int,
        strength: float,
    ) -> None:
        super().__init__()
        self._weights, self._start, self._strength = dict(weights), start, strength
        drawn = {
            name: torch.empty(rank, sizes[name][1]).uniform_(-1, 1) / math.sqrt(sizes[name][1]) for name in weights
        }
        self.down = nn.ParameterList(drawn[name].to(weight.device) for name, weight in weights.items())
        self.up = nn.ParameterList(weight.new_zeros(sizes[name][0], rank) for name, weight in weights.items())

    def parameters_of(self) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        """Return both factors of each corrected weight, by its name."""
        return dict(zip(self._weights, zip(self.down, self.up, strict=True), strict=True))

    def sums(self) -> dict[str, Tensor]:
        """Return the corrected weights by name, with gradient for the corrections; in float32 at any precision of a step."""
        found = {}
        for name, (down, up) in self.parameters_of().items():
            with torch.autocast(down.device.type, enabled=False):
                start = self._start[name]
                found[name] = start + self._strength * (up @ down).view_as(start)
        return found

    @torch.no_grad()
    def merge(self) -> None:
        """Put the sums into the weights; call it after each step of the optimiser."""
        for name, value in self.sums().items():
            self._weights[name].copy_(value)

    @torch.no_grad()
    def clear(self) -> None:
        """Begin without corrections."""
        for up in self.up:
            up.zero_()
