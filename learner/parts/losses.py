"""Losses and what they are made of, as functions of whole batches; each keeps the pairs apart.

Shapes: B pairs, N views of a pair, D width of a projection, K keys or prototypes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, Tensor

from learner.distributed import collectives


def sinkhorn(scores: Tensor, rounds: int = 3) -> Tensor:
    """Spread a batch evenly over the prototypes (Caron et al. 2020, SwAV, section 3.1): scores [B, K] to rows that sum to 1.

    It normalises in turn all prototypes to the same mass and all pairs to the same mass, in log space so that nothing overflows.
    """
    for _ in range(rounds):
        scores = scores - scores.logsumexp(0, keepdim=True)
        scores = scores - scores.logsumexp(1, keepdim=True)
    return scores.exp()


def even_codes(scores: Tensor, temperature: float) -> Tensor:
    """Return Sinkhorn's codes of rows [B, n, K], which the rows of all processes share evenly: [B, n, K], without gradient."""
    everyones = collectives.all_rows(scores.detach()) / temperature
    return collectives.own_rows(sinkhorn(everyones.flatten(0, 1)).view_as(everyones))


def info_nce(queries: Tensor, keys: Tensor, own: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return -log softmax_j(cos(q_i, k_j) / temperature) at the own key of each query, [M], and the cosines, without gradient.

    queries: unit [M, D]; keys: unit [K, D]; own: int [M].
    (van den Oord et al. 2018, equation 4.) A key that is not finite is seen by its own query only, which it spoils.
    """
    broken = ~keys.isfinite().all(-1)
    with torch.autocast(queries.device.type, enabled=False):  # a small temperature divides them next
        cosines = queries @ keys.nan_to_num(0.0, 0.0, 0.0).T
    logits = (cosines / temperature).masked_fill(broken, -torch.inf)
    return F.cross_entropy(logits, own, reduction="none"), cosines.detach()


def triplet(queries: Tensor, keys: Tensor, own: Tensor, margin: float, hardest: int = 1) -> Tensor:
    """Return the mean of relu(margin + cos(q_i, k_j) - cos(q_i, k_i)) over the hardest keys j of other pairs: [M].

    queries: unit [M, D]; keys: unit [K, D]; own: int [M]; hardest: how many of the nearest wrong keys are taken, 1 or more.
    (Wang and Gupta 2015, unsupervised learning from videos, sections 5.2 and 5.3.) A key that is not finite is seen by its own
    query only, which it spoils. Without another key the loss is 0.
    """
    broken = ~keys.isfinite().all(-1)
    with torch.autocast(queries.device.type, enabled=False):
        cosines = queries @ keys.nan_to_num(0.0, 0.0, 0.0).T
    itself = F.one_hot(own, len(keys)).bool()
    right = torch.where(broken[own], torch.nan, cosines[itself])
    wrong, _ = cosines.masked_fill(itself | broken, -torch.inf).topk(min(hardest, len(keys)))
    terms = F.relu(margin + wrong - right[:, None])  # a missing key is at -inf, and adds nothing
    return terms.sum(-1) / wrong.isfinite().sum(-1).clamp_min(1)


class Compared(NamedTuple):
    """Each view of each pair of this process against all views of the batch, K = M * V of them; a broken one is not finite.

    cosines: float [B, V, K], 0 to a broken view; same: bool [B, V, K], the other views of the same pair; others: bool, those of
    other pairs, without broken ones.
    """

    cosines: Tensor
    same: Tensor
    others: Tensor


def compared(own: Tensor, everyones: Tensor, first: int) -> Compared:
    """Compare unit rows [B, V, D] with those of all processes, [M, V, D], of which those of this process begin at `first`.

    The row of a broken view has cosines that are not finite, so it spoils the loss of its own pair and of no other one.
    """
    count, views = own.shape[:2]
    keys = everyones.flatten(0, 1)
    broken = ~keys.isfinite().all(-1)
    numbers = torch.arange(len(keys), device=own.device)
    mine = numbers[first * views : (first + count) * views].view(count, views, 1)
    same = numbers // views == mine // views
    with torch.autocast(own.device.type, enabled=False):
        cosines = own @ keys.nan_to_num(0.0, 0.0, 0.0).T
    return Compared(cosines, same & (numbers != mine), ~same & ~broken)


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen values along the last dimension; 0 where there is none."""
    return values.where(chosen, 0.0).sum(-1) / chosen.sum(-1).clamp_min(1)


def distances(cosines: Tensor) -> Tensor:
    """Return the Euclidean distances of unit vectors, 0 to 2, from their cosines; at 0 the gradient is 0 and not infinite."""
    return (2 - 2 * cosines).clamp_min(1e-6).sqrt()


def nt_xent(own: Tensor, everyones: Tensor, first: int, temperature: float) -> Tensor:
    """Return NT-Xent over all views of all pairs, [B]: each view has to find the other views of its pair among all others.

    The arguments are those of `compared`. For two views it is equation 1 of Chen et al. 2020 (SimCLR); of more, the mean over the
    views that belong together.
    """
    found = compared(own, everyones, first)
    logits = (found.cosines / temperature).masked_fill(~(found.same | found.others), -torch.inf)
    return mean_where(-F.log_softmax(logits, -1), found.same).mean(1)


def apart_in_pairs(rows: Tensor) -> Tensor:
    """Return the mean squared distance of two different rows, divided by D: [B, V, D] to [B] (VICReg, equation 5).

    One row has no distance: 0.
    """
    views = rows.shape[1]
    distances = (rows[:, :, None] - rows[:, None]).square().mean(-1)
    return distances.sum((1, 2)) / max(views * (views - 1), 1)


def variance_hinge(rows: Tensor, target: float = 1.0) -> Tensor:
    """Return the mean over the columns of [B, D] of what their standard deviation lacks (Bardes et al. 2022, VICReg, eq. 1)."""
    return F.relu(target - (rows.var(0) + 1e-4).sqrt()).mean()


def covariance(rows: Tensor) -> Tensor:
    """Return the sum of the squared covariances between two columns of [B, D], divided by D (VICReg, equation 4)."""
    centred = rows - rows.mean(0)
    squares = (centred.T @ centred / (len(rows) - 1)).square()
    return (squares.sum() - squares.diagonal().sum()) / rows.shape[1]


def coding_rate(rows: Tensor, epsilon_squared: float) -> Tensor:
    """Return R of rows [B, D] (Ma et al. 2007; Yu et al. 2020, MCR2), a scalar in nats."""
    count, width = rows.shape
    with torch.autocast(rows.device.type, enabled=False):
        gram = torch.eye(width, device=rows.device) + width / (count * epsilon_squared) * (rows.T @ rows)
    return torch.logdet(gram) / 2


def between_views(terms: Tensor) -> Tensor:
    """Return the mean over each view v and each target of another view g of a pair: [B, V, G] to [B].

    The views with a target are the first ones, as `Views.through` puts the large ones first.
    """
    itself = torch.eye(*terms.shape[1:], dtype=torch.bool, device=terms.device)
    return terms.masked_fill(itself, 0.0).sum((1, 2)) / (~itself).sum()


def divergence(targets: Tensor, log_answers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return H(p_g, q_v) between the views of each pair, the mean entropy of its targets, and the KL without gradient: each [B].

    targets: p, [B, G, K]; log_answers: log q, [B, V, K].
    """
    with torch.autocast(targets.device.type, enabled=False):
        cross_entropy = between_views(-log_answers @ targets.mT)
    entropy = torch.special.entr(targets).sum(-1).mean(1)
    return cross_entropy, entropy, (cross_entropy.detach() - entropy).clamp_min(0)  # rounding may bring it below 0


def directions(width: int, count: int, generator: Generator, like: Tensor) -> Tensor:
    """Return random unit columns [width, count], the same ones in all processes (Balestriero and LeCun 2025, LeJEPA, section 4).

    like: a tensor of the wanted type and device.
    """
    drawn = torch.randn(count, width, generator=generator, device=like.device, dtype=like.dtype)
    return F.normalize(collectives.all_rows(drawn)[:count], dim=-1).T
