"""A layer that turns the gradient round, so that two adversaries learn in one step (Ganin and Lempitsky 2015, section 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradient, None


def reversed_gradient(values: Tensor, weight: float) -> Tensor:
    """Return the same values; their gradient is multiplied by minus the weight."""
    found: Tensor = _Reversal.apply(values, weight)
    return found
