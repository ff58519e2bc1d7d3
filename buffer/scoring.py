"""The score of a pair in the reservoir, the random numbers in it, and the scores that were turned away.

    score = loss_weight * phi + t * ln 2 / half_life + noise * G

`buffer.reservoir` explains the formula. Items are rows of `ITEM`; their rank is the score, then the earlier arrival.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffer.validation import Settings

Floats = NDArray[np.float64]
Items = NDArray[np.void]
Ranks = NDArray[np.complex128]
Fields = Items | Mapping[str, NDArray[Any]]
"""Rows of `ITEM`, or its fields by name."""

FIELDS = ("phi", "gumbel", "hurdle", "arrival")
ITEM = np.dtype([("phi", np.float64), ("gumbel", np.float64), ("hurdle", np.float64), ("arrival", np.int64)])
"""The fields of a slot except its key and its leaves in the trees. They are read together, so they are stored together."""
ARRIVAL_STREAM, DRAW_STREAM = 0, 1
"""The two rows of random numbers: of arrivals, and of samples."""


def uniforms(seed: int, stream: int, start: int, count: int, step: int = 1) -> Floats:
    """Return numbers `start`, `start + step`, ... of an endless row of uniforms in (0, 1): float64 [count].

    Each number is a pure function of (seed, stream, its position in the row), by the counter of Philox (Salmon et al. 2011).
    It does not depend on how arrivals fall into batches, and there is no generator state to save.
    """
    # One counter value makes four words. Using only the first keeps the numbering simple and costs nanoseconds.
    words = np.random.Philox(key=seed + (stream << 64), counter=start).random_raw(4 * step * count)[:: 4 * step]
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # 52 bits: the largest value is still below 1


class Scoring:
    """The formula with the settings of one reservoir."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._growth = math.log(2) / settings.half_life

    def arriving(self, number: int, phi: Floats) -> Items:
        """Return the items of the next arrivals with these phi: [k]. number: of the first one; the others follow it."""
        items, shards = np.empty(phi.size, ITEM), self._settings.shards
        items["phi"], items["hurdle"] = phi, -np.inf
        items["gumbel"] = -np.log(-np.log(uniforms(self._settings.seed, ARRIVAL_STREAM, number, phi.size, shards)))
        items["arrival"] = number + shards * np.arange(phi.size)
        return items

    def ranks(self, items: Fields) -> Ranks:
        """Return the ranks, complex [k]: the score, then minus the number of the arrival."""
        ranks = np.empty(items["phi"].size, np.complex128)
        ranks.real, ranks.imag = self._drift(items) + self._settings.noise * items["gumbel"], -items["arrival"]
        return ranks

    def weights(self, items: Items) -> Floats:
        """Return the weights with which samples are drawn, exp(loss_weight * phi): [k]."""
        return np.exp(self._settings.loss_weight * items["phi"])

    def hurdles(self, items: Items, cuts: Floats) -> Floats:
        """Return what noise * G of each item had to exceed to stay, [k]: the largest cut less the score without noise.

        cuts: [k], the largest score that was turned away since the phi of each item was measured.
        """
        hurdles: Floats = np.maximum(items["hurdle"], cuts - self._drift(items))
        return hurdles

    def inclusion(self, hurdles: Floats) -> Floats:
        """Return the probability that noise * G exceeds each hurdle: [k]. Without noise there is no chance: ones."""
        if self._settings.noise == 0:
            return np.ones(hurdles.size)
        with np.errstate(over="ignore"):  # an exponent of any size is a probability of one
            return -np.expm1(-np.exp(-hurdles / self._settings.noise))

    def _drift(self, items: Fields) -> Floats:
        """Return the score without its noise."""
        drift: Floats = self._settings.loss_weight * items["phi"] + self._growth * items["arrival"]
        return drift


class Cuts:
    """Knows the largest score that was turned away since a given step, which an item had to beat to stay.

    It is a stack of suffix maxima: steps rise, scores fall. While scores never change it holds one number, the (n + 1)-th
    largest score of all. After an update has lowered some scores, later cuts may be lower than earlier ones.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.scores: list[float] = []

    def add(self, step: int, score: float) -> None:
        """Record a score that was turned away at `step`, which is never before the last one."""
        while self.scores and self.scores[-1] <= score:
            self.steps.pop()
            self.scores.pop()
        if not self.steps or self.steps[-1] != step:
            self.steps.append(step)
            self.scores.append(score)

    def since(self, steps: Floats) -> Floats:
        """Return the largest score turned away at or after each step, -inf if there was none: float64 [k]."""
        first = np.searchsorted(np.asarray(self.steps, np.float64), steps)
        return np.asarray([*self.scores, -np.inf])[first]
