"""The targets of a teacher over prototypes: centred and sharpened, or spread evenly over the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor, nn

from learner.bounds import Momentum, Positive
from learner.distributed import collectives
from learner.parts.losses import sinkhorn


@dataclass(frozen=True, kw_only=True)
class CentringConfig:
    """The settings of the targets, for an objective to inherit from."""

    teacher_temperature: Positive = 0.02
    """tau_p, of the softmax of the teacher; a lower one sharpens."""
    centring: Literal["ema", "sinkhorn"] = "ema"
    """Method that prevents one prototype from taking all pairs: an EMA of the mean logits (original experiment), or
    Sinkhorn-Knopp."""
    centre_momentum: Momentum = 0.9
    """EMA rate of the centre."""


class Centre(nn.Module):
    """The mean of a teacher's logits over the pairs of all processes (Caron et al. 2021, DINO, section 3.1, equation 4).

    centre <- momentum * centre + (1 - momentum) * mean of the batch, after each step, so that a refused one leaves no trace.
    """

    mean: Tensor

    def __init__(self, prototypes: int, config: CentringConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(prototypes))
        self._seen = self.mean.clone()

    @torch.no_grad()
    def targets(self, logits: Tensor) -> Tensor:
        """Return the targets of all pairs, [M, K], of which each row sums to 1; logits: those of this process, [B, K]."""
        everyones = collectives.all_rows(logits)
        self._seen = everyones.mean(0)
        if self.config.centring == "sinkhorn":
            return sinkhorn(everyones / self.config.teacher_temperature)
        return F.softmax((everyones - self.mean) / self.config.teacher_temperature, -1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move towards the mean of the last batch."""
        self.mean.lerp_(self._seen, 1 - self.config.centre_momentum)
