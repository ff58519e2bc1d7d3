"""The rows of earlier steps, such as keys: first in, first out, or one for each pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor, nn

from learner.bounds import Count, Momentum, Positive
from learner.distributed import collectives


@dataclass(frozen=True, kw_only=True)
class KeysConfig:
    """The settings of keys in a queue, for an objective to inherit from; the numbers are those of MoCo v2."""

    projection: Count = 256
    """Width of a projection."""
    queue: Count = 4096
    """K, the keys of earlier pairs."""
    momentum: Momentum = 0.996
    """Of the copy that makes the keys, after each step."""
    temperature: Positive = 0.2
    """Temperature of the softmax over the own key and the queue."""


class Queue(nn.Module):
    """Unit rows [size, width], random ones at the start (He et al. 2020, MoCo, section 3.2)."""

    rows: Tensor
    taken: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, width), dim=-1))
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))
        self._pushed = self.rows[:0]

    def push(self, rows: Tensor) -> None:
        """Give it the rows [B, width] of this step. Those of all processes enter after it: a refused one leaves no trace."""
        self._pushed = collectives.all_rows(rows.detach())[-len(self.rows) :]

    @property
    def entered(self) -> int:
        """How many rows the last step gave it."""
        return len(self._pushed)

    def after_step(self) -> None:
        """Let the rows of this step take the places of the oldest ones."""
        places = (self.taken + torch.arange(len(self._pushed), device=self.rows.device)) % len(self.rows)
        self.rows[places] = self._pushed.to(self.rows.dtype)
        self.taken += len(self._pushed)


class Bank(nn.Module):
    """Unit rows [size, width], each of one pair, which is found by its key: row number key modulo size, random ones at the start.

    (Wu et al. 2018, section 3.1; their bank has a row for each image of a fixed set.) Of two pairs with the same row the one that
    was seen last holds it. What is held moves: row <- momentum * row + (1 - momentum) * the new one, scaled to length 1.
    """

    rows: Tensor
    owners: Tensor

    def __init__(self, size: int, width: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("rows", F.normalize(torch.randn(size, width), dim=-1))
        self.register_buffer("owners", torch.full((size,), -1))
        self._noted = self.owners[:0], self.rows[:0]

    def places(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of the row of each key, int [B], and whether its pair holds it, bool [B]."""
        places = keys % len(self.rows)
        return places, self.owners[places] == keys

    def note(self, keys: Tensor, rows: Tensor) -> None:
        """Give it the unit rows [B, width] of pairs in this step. Those of all processes enter after it."""
        self._noted = collectives.all_rows(keys), collectives.all_rows(rows.detach())

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the rows of the pairs of this step; of two with the same row the later one takes it."""
        keys, new = self._noted
        places, is_held = self.places(keys)
        moved = F.normalize(self.momentum * self.rows[places] + (1 - self.momentum) * new, dim=-1)
        is_last = ~(places[:, None] == places).triu(1).any(1)
        self.rows[places[is_last]] = torch.where(is_held[:, None], moved, new)[is_last].to(self.rows.dtype)
        self.owners[places[is_last]] = keys[is_last]
