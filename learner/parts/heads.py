"""The small networks behind an encoder. None has a batch norm unless it is given one, so each pair stays alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from learner.bounds import Bound, Count, NotNegative
from learner.distributed import collectives


@dataclass(frozen=True, kw_only=True)
class PrototypeConfig:
    """The settings of a projector with prototypes, for an objective to inherit from."""

    prototypes: Annotated[int, Bound(ge=2)] = 4096
    """K, the number of prototypes."""
    hidden: Count = 2048
    """Width of the hidden layers of the projector."""
    bottleneck: Count = 256
    """Width of a projection."""

    def projector(self, dim: int) -> PrototypeProjector:
        """Return one for features of this width."""
        return PrototypeProjector(dim, self.hidden, self.bottleneck, self.prototypes)


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
        return projection, self.cosines(projection)

    def cosines(self, projections: Tensor) -> Tensor:
        """Return the cosines of unit projections [B, bottleneck] with the prototypes, [B, K]."""
        return projections @ F.normalize(self.prototypes, dim=-1).T


class NestedProjector(nn.Module):
    """Maps the first half, quarter, ... of the features, and all of them, each to its own prototypes, fewer for fewer columns.

    (Venkataramanan et al. 2025, Franca, section 3, after Kusupati et al. 2022, Matryoshka representations.)
    """

    def __init__(self, dim: int, levels: int, config: PrototypeConfig) -> None:
        super().__init__()
        shares = [2 ** (levels - 1 - level) for level in range(levels)]
        self.widths = [dim // share for share in shares]
        sizes = (
            [max(2, size // share) for size in (config.hidden, config.bottleneck, config.prototypes)]
            for share in shares
        )
        self.levels = nn.ModuleList(
            PrototypeProjector(*each) for each in zip(self.widths, *zip(*sizes, strict=True), strict=True)
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """Map features, float [..., dim], to the cosines with the prototypes of each level, the coarsest first: [..., K]."""
        pairs = zip(self.levels, self.widths, strict=True)
        return [projector(features[..., :width])[1] for projector, width in pairs]


class UnitProjector(nn.Module):
    """Maps features by two layers to a unit vector (SimCLR, section 2.1), or by one layer where `hidden` is None."""

    def __init__(self, dim: int, hidden: int | None, projection: int) -> None:
        super().__init__()
        if hidden is None:
            self.mlp = nn.Sequential(nn.Linear(dim, projection))
        else:
            self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, projection))

    def forward(self, features: Tensor) -> Tensor:
        """Map features, float [B, dim], to projections [B, D]."""
        return F.normalize(self.mlp(features), dim=-1)


def mlp(dim: int, *widths: int, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> nn.Sequential:
    """Return linear layers of these widths, with a norm and a GELU between two: a projector or a predictor.

    The published ones have batch norms, whose statistics tie the pairs of a batch, and its processes, together.
    """
    layers: list[nn.Module] = []
    for before, width in zip((dim, *widths), widths, strict=False):
        layers += [nn.Linear(before, width), norm(width), nn.GELU()]
    return nn.Sequential(*layers[:-2])


@dataclass(frozen=True, kw_only=True)
class ExpanderConfig:
    """The settings of the terms of VICReg and of the network before them, for an objective to inherit from."""

    hidden: Count = 2048
    """Width of the hidden layers of the projector."""
    projection: Count = 2048
    """D, the width of a projection."""
    invariance: NotNegative = 25.0
    """Weight of the distance between the views of a pair."""
    variance: NotNegative = 25.0
    """Weight of the hinge on the standard deviation of each column."""
    covariance: NotNegative = 1.0
    """Weight of the squared covariances between columns."""

    def expander(self, dim: int) -> nn.Sequential:
        """Return the network for features of this width."""
        return mlp(dim, self.hidden, self.hidden, self.projection)


class BatchNorm(nn.Module):
    """A batch norm (Ioffe and Szegedy 2015) over all views of the pairs of all processes, for losses that tie them anyway.

    It has no running statistics, because a projector is used in training only.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise float [..., width]."""
        over = tuple(range(rows.ndim - 1))
        centred = rows - collectives.shared_mean(rows.mean(over))
        variance = collectives.shared_mean(centred.square().mean(over))
        return centred * torch.rsqrt(variance + 1e-5) * self.weight + self.bias


class Classifier(nn.Module):
    """Guesses which of some classes is the right one, such as the turn of a view or the place of a tile, by one linear layer.

    See Gidaris et al. 2018 (rotations), and Noroozi and Favaro 2016 (the order of tiles, from the features of all of them).
    """

    def __init__(self, dim: int, classes: int, views: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(views * dim, classes)

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy and whether the guess is right, float and bool [B].

        features: [B, dim], or [B, views, dim]; labels: int [B].
        """
        with torch.autocast(features.device.type, enabled=False):
            scores = self.layer(features.float().flatten(1))
        return F.cross_entropy(scores, labels, reduction="none"), scores.argmax(-1) == labels


class Decoder(nn.Module):
    """Guesses the pixels of hidden patches from the tokens of the others (He et al. 2022, MAE, section 3)."""

    def __init__(self, dim: int, width: int, depth: int, heads: int, *, patches: int, out: int) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, shown: Tensor, hidden: Tensor) -> Tensor:
        """Map tokens [B, n, dim] of the patches `shown`, int [B, n], to the values [B, m, out] of those `hidden`, int [B, m]."""
        order = torch.cat([shown, hidden], 1)
        known = self.enter(tokens)
        guesses = self.mask_token.expand(*hidden.shape, -1).to(known.dtype)
        places = self.pos_embed.expand(len(order), -1, -1).gather(1, order[..., None].expand(-1, -1, known.shape[-1]))
        found: Tensor = self.leave(self.blocks(torch.cat([known, guesses], 1) + places)[:, shown.shape[1] :])
        return found
