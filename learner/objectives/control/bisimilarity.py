"""How far apart two embeddings are, compared with how far apart the rewards and embeddings that follow are."""

from __future__ import annotations

import torch
from torch import Tensor

from learner.distributed import collectives
from learner.objectives.control.moves import Moves
from learner.parts.losses import mean_where


def disagreement(move: Moves, embeddings: Tensor, mean: Tensor, deviation: Tensor, discount: float) -> Tensor:
    """Return the first term of DBC for each move, [W]: a mean over the other moves of all processes, 0 where there is none.

    embeddings: float [B, E]; mean, deviation: mu and sigma of the next ones, [W, E], through which no gradient flows.
    A move whose numbers are not finite spoils its own term only.
    """
    before, width = move.rows[:, 0], embeddings.shape[1]
    own = torch.cat([embeddings[before], mean.detach(), deviation.detach(), move.reward[:, None]], 1)
    # A row for each pair: processes have different numbers of moves, and gather as many rows each.
    table = own.new_full((len(embeddings), own.shape[1]), torch.nan).index_copy(0, before, own)
    everyones = collectives.everyone(table)
    itself = collectives.number() * len(embeddings) + before[:, None]
    others = everyones.isfinite().all(1) & (torch.arange(len(everyones), device=own.device) != itself)
    keys = everyones.nan_to_num(0.0, 0.0, 0.0)
    with torch.autocast(own.device.type, enabled=False):
        apart = torch.cdist(own[:, :width], keys[:, :width], p=1.0) / width
        coming = torch.cdist(own[:, width:-1], keys[:, width:-1]) / width**0.5
    gained = (own[:, -1:] - keys[:, -1]).abs()
    return mean_where((apart - gained - discount * coming).square(), others)
