"""Label-free gauges of a representation, which show whether it is rich or collapsing. Pure.

No gauge measures quality by itself (a random network has a high rank): compare each with its own history. For embeddings that
were drawn from the reservoir, `weights` [N] (Horvitz-Thompson, 1 / inclusion probability) make a gauge describe the stream
rather than the reservoir; None means equal weights. All are computed in float64, since spectra span many orders of magnitude.

Shapes: N samples, D width of an embedding, K prototypes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FIRST_RANK, LAST_RANK = 3, 100
"""Ranks of the spectrum that alpha-ReQ fits: the first eigenvalues and the noise at the end do not follow the power law."""


def rankme(embeddings: Tensor, weights: Tensor | None = None) -> float:
    """Return the effective rank of [N, D], 1 to D: exp of the entropy of its normalised singular values; 0 if all are 0.

    Garrido et al. 2023, arXiv:2210.02885. N should be two to four times D.
    """
    scaled = embeddings.double() * _shares(embeddings, weights).sqrt()[:, None]
    singular = _eigenvalues(scaled.T @ scaled).sqrt()
    total = float(singular.sum())
    return math.exp(float(entropy(singular / total))) if total > 0 else 0.0


def alpha_req(embeddings: Tensor, weights: Tensor | None = None) -> float:
    """Return the exponent alpha of the eigenvalues of the covariance, lambda_i ~ i ** -alpha; nan with too few ranks.

    A value near 1 is best: Agrawal et al. 2022, NeurIPS (alpha-ReQ). It is a least-squares fit of logarithms over ranks
    FIRST_RANK to LAST_RANK, weighted by 1 / i, so that each octave of the spectrum has the same weight.
    """
    z, share = embeddings.double(), _shares(embeddings, weights)
    centred = (z - share @ z) * share.sqrt()[:, None]
    eigenvalues = _eigenvalues(centred.T @ centred).flip(0)
    last = min(int((eigenvalues > eigenvalues[0] * 1e-10).sum()), LAST_RANK)
    if last <= FIRST_RANK:
        return math.nan
    rank = torch.arange(FIRST_RANK, last + 1, dtype=torch.float64, device=z.device)
    return -_slope(rank.log(), eigenvalues[FIRST_RANK - 1 : last].log(), 1 / rank)


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy in nats over the last dimension of [..., K]: 0 for certainty, ln K for a uniform distribution."""
    surprise: Tensor = torch.special.entr(probabilities.double())
    return surprise.sum(-1)


def prototypes_in_use(probabilities: Tensor, weights: Tensor | None = None) -> float:
    """Return the perplexity of the mean of [N, K], 1 to K: how many prototypes the teacher uses in a batch."""
    mean = _shares(probabilities, weights) @ probabilities.double()
    return math.exp(float(entropy(mean)))


def mean_cosine(embeddings: Tensor) -> float:
    """Return the mean cosine of two different rows of [N, D], N >= 2; near 1 the representation has collapsed to a point."""
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    count = len(unit)
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1)))


def _shares(rows: Tensor, weights: Tensor | None) -> Tensor:
    """Return the weights of the rows in float64, with sum 1."""
    chosen = torch.ones(len(rows)) if weights is None else weights
    chosen = chosen.to(rows.device, torch.float64)
    return chosen / chosen.sum()


def _eigenvalues(gram_DD: Tensor) -> Tensor:
    """Return the ascending eigenvalues of a positive semi-definite matrix; rounding errors below 0 become 0."""
    values: Tensor = torch.linalg.eigvalsh(gram_DD)
    return values.clamp_min(0)


def _slope(x: Tensor, y: Tensor, weight: Tensor) -> float:
    share = weight / weight.sum()
    dx, dy = x - share @ x, y - share @ y
    return float((share * dx * dy).sum() / (share * dx * dx).sum())
