"""The small networks behind an encoder: projectors, predictors, a decoder. None has a batch norm, so each pair stays alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor, nn


class PrototypeProjector(nn.Module):
    """Maps features by three layers to a unit vector, the projection, and to its cosines with K unit prototypes.

    See Caron et al. 2021 (DINO), appendix C.
    """

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.prototypes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features, float [B, dim], to the projection [B, bottleneck] and logits [B, K], cosines in [-1, 1]."""
        projection = F.normalize(self.mlp(features), dim=-1)
        return projection, projection @ F.normalize(self.prototypes, dim=-1).T


class UnitProjector(nn.Module):
    """Maps features by two layers to a unit vector (SimCLR, section 2.1)."""

    def __init__(self, dim: int, hidden: int, projection: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, projection))

    def forward(self, features: Tensor) -> Tensor:
        """Map features, float [B, dim], to projections [B, D]."""
        return F.normalize(self.mlp(features), dim=-1)
