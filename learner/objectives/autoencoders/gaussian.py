"""The embedding of a variational autoencoder: a Gaussian for each picture (Kingma and Welling 2014, section 3)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def drawn(numbers: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw from N(mu, sigma^2), and return it, [B, D], with the divergence of N(mu, sigma^2) from N(0, 1), [B].

    numbers: mu and log sigma^2 side by side, [B, 2 D]; the latter is cut to [-20, 20].
    """
    mean, log_variance = numbers.chunk(2, -1)
    log_variance = log_variance.clamp(-20, 20)
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1) / 2
    noise = torch.randn(mean.shape, device=mean.device, generator=generator)
    return mean + (log_variance / 2).exp() * noise, divergence
