"""The rows of earlier steps, such as keys: first in, first out."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor, nn

from learner.distributed import collectives


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

    def after_step(self) -> None:
        """Let the rows of this step take the places of the oldest ones."""
        places = (self.taken + torch.arange(len(self._pushed), device=self.rows.device)) % len(self.rows)
        self.rows[places] = self._pushed.to(self.rows.dtype)
        self.taken += len(self._pushed)
