"""A batch norm whose statistics are those of all processes, and whose running ones move only after a step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learner.distributed import collectives


class SharedBatchNorm(nn.BatchNorm2d):
    """A batch norm (Ioffe and Szegedy 2015) over the whole batch, with the names and the weights of the one it replaces.

    torch's own shared one needs a GPU, and changes its running statistics in the forward pass, so that a refused step would leave
    a trace.
    """

    _seen: tuple[Tensor, Tensor] | None = None
    """Mean and variance of the last forward pass, until the running ones have moved."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, C, H, W]; by the running statistics outside of training."""
        values = input.float()
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean = collectives.shared_mean(values.mean((0, 2, 3)))
            variance = collectives.shared_mean((values - mean[:, None, None]).square().mean((0, 2, 3)))
            count = collectives.count() * input.numel() // input.shape[1]
            self._seen = mean.detach(), variance.detach() * count / max(1, count - 1)
        assert mean is not None
        assert variance is not None
        scale = torch.rsqrt(variance + self.eps) * self.weight
        found = values * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]
        for name in ("drop", "act"):  # timm's norms with an activation
            found = getattr(self, name, nn.Identity())(found)
        return found.to(input.dtype)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the running statistics; those of a frozen copy are copied instead. Two that share it move it once."""
        seen, self._seen = self._seen, None
        if self.weight.requires_grad and seen and self.running_mean is not None and self.running_var is not None:
            self.running_mean.lerp_(seen[0], self.momentum or 0.1)
            self.running_var.lerp_(seen[1], self.momentum or 0.1)


def share_statistics(network: nn.Module) -> bool:
    """Replace each batch norm of a network; return whether there was one."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.__class__ = SharedBatchNorm
    return bool(norms)
