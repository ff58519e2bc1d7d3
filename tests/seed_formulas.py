"""Section 6 of the design in NumPy, written from its text and one pair at a time: what the learner must equal. Nothing of ours.

Where the text leaves a choice open the docstring says which one is rendered. Images are [3, H, W]; a window is (centre x,
centre y, half width, half height) in fractions of the image; x runs along the width. B pairs, N crops, K prototypes, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


# 1. Where the past network looks


def shrunk(image: Array, side: int) -> Array:
    """The whole image at `side` pixels a side: weighted means under a triangle as wide as two pixels of the answer."""

    def weights(length: int) -> Array:
        pixel = length / side
        distance = np.abs((np.arange(side)[:, None] + 0.5) * pixel - (np.arange(length) + 0.5)) / max(pixel, 1)
        triangle = np.maximum(1 - distance, 0)
        return np.asarray(triangle / triangle.sum(1, keepdims=True))

    return np.asarray(weights(image.shape[1]) @ image @ weights(image.shape[2]).T)


def gaussian(attention: Array) -> Array:
    """Mean x, mean y, deviation x, deviation y of position under a map [h, w]; a patch's mass lies at its centre."""
    share = attention / attention.sum()
    moments = []
    for marginal in (share.sum(0), share.sum(1)):
        at = (np.arange(len(marginal)) + 0.5) / len(marginal)
        mean = np.sum(marginal * at)
        moments.append((mean, math.sqrt(np.sum(marginal * (at - mean) ** 2))))
    (mean_x, deviation_x), (mean_y, deviation_y) = moments
    return np.array([mean_x, mean_y, deviation_x, deviation_y])


# 2. The crops


def window(gauss: Array, aspect: float, *, sigmas: float, smallest: float) -> Array:
    """A square of the scene around the mean: half a side is so many deviations, the root mean square of both axes.

    At least `smallest` of the shorter side of the image and at most all of it; moved, not cut, to lie inside.
    """
    height = 1.0
    width = aspect * height
    deviation = math.sqrt(((gauss[2] * width) ** 2 + (gauss[3] * height) ** 2) / 2)
    shorter = min(width, height)
    half = min(max(sigmas * deviation, smallest * shorter / 2), shorter / 2)
    half_x, half_y = half / width, half / height
    return np.array([min(max(gauss[0], half_x), 1 - half_x), min(max(gauss[1], half_y), 1 - half_y), half_x, half_y])


def cut(image: Array, window: Array, size: int) -> Array:
    """The window at `size` pixels a side, [3, size, size]: between four pixels bilinear, beyond the border its colour.

    Nothing is averaged: a window of more than `size` pixels is sampled, not smoothed.
    """
    centre_x, centre_y, half_x, half_y = window
    steps = (np.arange(size) + 0.5) / size * 2 - 1
    height, width = image.shape[1:]
    xs = ((centre_x + half_x * steps) * width - 0.5).clip(0, width - 1)
    ys = ((centre_y + half_y * steps) * height - 0.5).clip(0, height - 1)
    left, top = np.minimum(xs.astype(int), width - 2), np.minimum(ys.astype(int), height - 2)
    right_share, low_share = xs - left, (ys - top)[:, None]
    rows = image[:, :, left] * (1 - right_share) + image[:, :, left + 1] * right_share
    return np.asarray(rows[:, top] * (1 - low_share) + rows[:, top + 1] * low_share)


# 3. Two distributions


def head(features: Array, layers: Iterable[tuple[Array, Array]], prototypes: Array) -> tuple[Array, Array]:
    """DINO's head (Caron et al. 2021, appendix C): linear layers with a GELU between them, then cosines to the prototypes.

    Features [B, dim] to projections [B, D] of length 1, and logits [B, K].
    """
    hidden = features
    for number, (weight, bias) in enumerate(layers):
        if number:
            hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
        hidden = hidden @ weight.T + bias
    projection = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    return projection, projection @ (prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)).T


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def centred_and_sharpened(logits: Array, centre: Array, temperature: float) -> Array:
    """P_p of the past network's logits [B, K]."""
    return softmax((logits - centre) / temperature)


def swav(scores: Array, rounds: int = 3) -> Array:
    """Sinkhorn-Knopp as Caron et al. 2020 print it, in plain space: [B, K]. In the place of the centre."""
    plan = np.exp(scores).T
    prototypes, pairs = plan.shape
    plan /= plan.sum()
    for _ in range(rounds):
        plan /= plan.sum(1, keepdims=True) * prototypes
        plan /= plan.sum(0, keepdims=True) * pairs
    return np.asarray((plan * pairs).T)


# 4. The loss


def cross_entropy(past: Array, present: Array) -> float:
    """H(P_p, P_m) of two distributions [K]."""
    return -float(np.sum(past * np.log(present)))


def repelled(projection: Array, temperature: float) -> float:
    """sum_i log sum_{j != i} exp(cos(z_i, z_j) / temperature) of one pair's projections [N, D], term by term."""
    crops = range(len(projection))
    unit = [row / np.linalg.norm(row) for row in projection]
    return sum(math.log(sum(math.exp(unit[i] @ unit[j] / temperature) for j in crops if j != i)) for i in crops)


def repelled_by(projection: Array, others: Array, temperature: float) -> float:
    """sum_i log sum_k exp(cos(z_i, k) / temperature) over the keys [M, D] of other pairs: what each crop is kept away from."""
    keys = [row / np.linalg.norm(row) for row in others]
    unit = [row / np.linalg.norm(row) for row in projection]
    return sum(math.log(sum(math.exp(row @ key / temperature) for key in keys)) for row in unit)


def entropy(distribution: Array) -> float:
    """H of [K]; what has no probability adds nothing."""
    some = distribution[distribution > 0]
    return -float(np.sum(some * np.log(some)))


# 5. The update


def moved(past: Array, present: Array, rate: float) -> Array:
    """An exponential moving average: `rate` of what was, the rest of what is."""
    return rate * past + (1 - rate) * present


def clipped(gradients: list[Array], longest: float) -> list[Array]:
    """All of them shortened by one factor, so that together they are at most `longest`."""
    length = math.sqrt(sum(float(np.sum(gradient**2)) for gradient in gradients))
    return [gradient * min(1.0, longest / length) for gradient in gradients]


@dataclass
class AdamW:
    """Loshchilov and Hutter 2019, algorithm 2, for one tensor; the decay is multiplied by the rate, as torch has it."""

    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    step: int = 0
    first: Array = field(default_factory=lambda: np.zeros(1))
    second: Array = field(default_factory=lambda: np.zeros(1))

    def after(self, weight: Array, gradient: Array, rate: float) -> Array:
        """The weight after one step."""
        self.step += 1
        self.first = moved(self.first, gradient, self.betas[0])
        self.second = moved(self.second, gradient**2, self.betas[1])
        first, second = self.first / (1 - self.betas[0] ** self.step), self.second / (1 - self.betas[1] ** self.step)
        return np.asarray(weight - rate * (first / (np.sqrt(second) + self.epsilon) + self.weight_decay * weight))
