"""Label-free gauges of a representation, which show whether it is rich or collapsing. Pure.

No gauge measures quality by itself (a random network has a high rank): compare each with its own history. All are computed in
float64, since spectra span many orders of magnitude.

Shapes: N samples, D width of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor

from learner.parts.meaning import Meaning

FIRST_RANK, LAST_RANK = 3, 100
"""Ranks of the spectrum that alpha-ReQ fits: the first eigenvalues and the noise at the end do not follow the power law."""

COMMON_MEANINGS: Mapping[str, Meaning] = {
    "feature_rank": Meaning("", "RankMe of the batch's features, 1 where all are alike to their width."),
    "feature_cosine": Meaning("", "Mean cosine between the features of two pairs of the batch, 1 where all are alike."),
}


def rankme(embeddings: Tensor) -> float:
    """Return the effective rank of [N, D], 1 to D: exp of the entropy of its normalised singular values; 0 if all are 0.

    Garrido et al. 2023, arXiv:2210.02885. N should be two to four times D.
    """
    singular = _eigenvalues(embeddings.double()).sqrt()
    total = float(singular.sum())
    return math.exp(float(torch.special.entr(singular / total).sum())) if total > 0 else 0.0


def alpha_req(embeddings: Tensor) -> float:
    """Return the exponent alpha of the eigenvalues of the covariance, lambda_i ~ i ** -alpha; nan with too few ranks.

    A value near 1 is best: Agrawal et al. 2022, NeurIPS (alpha-ReQ). It is a least-squares fit of logarithms over ranks
    FIRST_RANK to LAST_RANK, weighted by 1 / i, so that each octave of the spectrum has the same weight.
    """
    z = embeddings.double()
    eigenvalues = _eigenvalues(z - z.mean(0)).flip(0).cpu().numpy()
    last = min(int((eigenvalues > eigenvalues[0] * 1e-10).sum()), LAST_RANK)
    if last <= FIRST_RANK:
        return math.nan
    rank = np.arange(FIRST_RANK, last + 1)
    slope, _ = np.polyfit(np.log(rank), np.log(eigenvalues[FIRST_RANK - 1 : last]), 1, w=rank**-0.5)
    return -float(slope)


def feature_gauges(features: Tensor) -> dict[str, float]:
    """Return the common gauges of the features of a batch, float [B, D]; both are nan if one is not finite."""
    if not features.isfinite().all():
        return dict.fromkeys(COMMON_MEANINGS, float("nan"))
    features, (count, dim) = features.cpu().double(), features.shape
    unit = F.normalize(features, dim=-1)
    cosine = float((unit.sum(0).square().sum() - count) / max(count * (count - 1), 1))
    return {"feature_rank": rankme(features if count >= dim else features.T), "feature_cosine": cosine}


def _eigenvalues(rows_ND: Tensor) -> Tensor:
    """Return the ascending eigenvalues [D] of rows.T @ rows; rounding errors below 0 become 0."""
    values: Tensor = torch.linalg.eigvalsh(rows_ND.T @ rows_ND)
    return values.clamp_min(0)
