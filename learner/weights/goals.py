"""How near a robot is to a goal picture, from the embeddings of both: rewards for a policy or a planner. Pure NumPy.

Embeddings are whatever an exported encoder says of pictures, through PyTorch or ONNX. A reward is 0 or less, and the higher the
nearer. Which form is better is a matter of the task; both know nothing of the goal but its picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def huber_reward(
    embeddings: ArrayLike, goal: ArrayLike, *, alpha: float = 1.0, beta: float = 1.0, gamma: float = 1e-3
) -> Floats:
    """Return -alpha d^2 - beta sqrt(gamma + d^2) for the Euclidean distance d of each embedding from the goal.

    embeddings: [..., D]; goal: [D], or [..., D] for a goal of each moment, such as the frames of a film to imitate; the result
    is float64 [...]. alpha makes it steep far away, beta keeps it steep near the goal, and gamma, above 0, rounds its tip.
    (Sermanet et al. 2018, time-contrastive networks, 1704.06888, section III-B; the numbers are ours.) Raises ValueError.
    """
    if not (0 < gamma < np.inf and 0 <= alpha < np.inf and 0 <= beta < np.inf):
        raise ValueError(
            f"gamma must be above 0, alpha and beta at least 0, all finite, got {gamma}, {alpha} and {beta}"
        )
    squared = np.square(_apart(embeddings, goal)).sum(-1)
    return np.asarray(-alpha * squared - beta * np.sqrt(gamma + squared))


def latent_reward(embeddings: ArrayLike, goal: ArrayLike, *, precision: ArrayLike | None = None) -> Floats:
    """Return -sqrt((z - g)^T A (z - g)), minus the Mahalanobis distance of each embedding z from the goal g.

    embeddings: [..., D]; goal: [D] or [..., D]; the result is float64 [...]. precision: the matrix A, [D, D], or its diagonal,
    [D], such as 1 / sigma^2 of a variational encoder; None is the Euclidean distance. (Nair et al. 2018, RIG, 1807.04742, section
    4.) Raises ValueError.
    """
    apart = _apart(embeddings, goal)
    matrix = np.ones(apart.shape[-1]) if precision is None else np.asarray(precision, np.float64)
    matrix = np.diag(matrix) if matrix.ndim == 1 else matrix
    if matrix.shape != (apart.shape[-1],) * 2:
        raise ValueError(f"precision must be [{apart.shape[-1]}] or twice that, got {list(matrix.shape)}")
    if not np.isfinite(matrix).all() or np.linalg.eigvalsh(matrix + matrix.T).min() < -1e-9 * np.abs(matrix).max():
        raise ValueError("precision must be positive: give variances above 0, or a covariance's inverse")
    squared = np.einsum("...i,ij,...j->...", apart, matrix, apart)
    return np.asarray(-np.sqrt(np.maximum(squared, 0)))


def _apart(embeddings: ArrayLike, goal: ArrayLike) -> Floats:
    """Return the differences, float64 [..., D]."""
    here, there = np.asarray(embeddings, np.float64), np.asarray(goal, np.float64)
    if here.ndim < 1 or there.shape not in (here.shape, here.shape[-1:]):
        raise ValueError(f"the goal must be as wide as the embeddings: got {list(here.shape)} and {list(there.shape)}")
    return here - there
