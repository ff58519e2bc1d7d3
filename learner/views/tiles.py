"""A crop of one eye, and its tiles in a random order (Doersch et al. 2015, context; Noroozi and Favaro 2016, jigsaw puzzles)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from learner.bounds import Bound, Count
from learner.errors import SettingsError
from learner.networks.encoder import Encoder
from learner.views.contract import Batch, Views
from learner.views.one_eye import OneEyeConfig


@dataclass(frozen=True, slots=True)
class TiledViews(Views):
    """The whole crop as the large view, the tiles as small ones. places: int [B, n], the cell of each tile, in lines of text."""

    places: Tensor


@dataclass(frozen=True, kw_only=True)
class TilesConfig(OneEyeConfig):
    """Square tiles out of the cells of a grid, each at a random place in its cell, so that no edge goes on in the next one."""

    name = "tiles"
    presets = {"cpu": {"size": 48, "grid": 2, "tile_size": 16}}

    grid: Annotated[int, Bound(ge=2, le=16)] = 3
    """Cells along a side of the crop."""
    tile_size: Count = 64
    """Side in pixels of a tile."""

    @property
    def count(self) -> int:
        """See ViewsConfig."""
        return 1 + self.grid**2

    def maker(self, encoder: Encoder) -> TileMaker:
        """See ViewsConfig."""
        encoder.require_sizes(self, "size", "tile_size")
        if self.tile_size * self.grid > self.size:
            raise SettingsError(
                f"{self.label}: {self.grid} tiles of {self.tile_size} pixels are longer than the size {self.size}"
            )
        return TileMaker(self)


class TileMaker:
    """Makes the views."""

    def __init__(self, config: TilesConfig) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: Generator) -> TiledViews:
        """Return the crop and its tiles; the tiles are its own pixels."""
        rgb, config = self.config.crop(batch, generator), self.config
        shape, device = (len(rgb), config.grid**2), rgb.device
        places = torch.rand(shape, device=device, generator=generator).argsort(1)
        cell = config.size // config.grid
        room = cell - config.tile_size + 1
        shift = (torch.rand((*shape, 2), device=device, generator=generator) * room).long().clamp_max(room - 1)
        pixels = torch.arange(config.tile_size, device=device)
        rows = ((places // config.grid) * cell + shift[..., 0])[..., None] + pixels
        columns = ((places % config.grid) * cell + shift[..., 1])[..., None] + pixels
        pairs = torch.arange(len(rgb), device=device)[:, None, None, None]
        tiles = rgb.permute(0, 2, 3, 1)[pairs, rows[..., None], columns[:, :, None]]
        return TiledViews(rgb[:, None], tiles.permute(0, 1, 4, 2, 3).contiguous(), places)
