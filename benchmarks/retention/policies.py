"""Which pairs stay: the reservoir's own settings, and policies of others in its clothes.

All draw uniformly from what they keep (but for the one that says otherwise), so that only retention differs. The policies of
others override who leaves and inherit the rest, bookkeeping of keys and ages among it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from buffer.reservoir import Offer, Reservoir

Keys = NDArray[np.int64]
Floats = NDArray[np.float64]
IID, NONE = "iid", "none"
"""The references: the same pairs in shuffled order, of which none ever leaves; and a memory of one step's newcomers."""


@dataclass(frozen=True)
class Situation:
    """What a policy is made from. embed: unit features [k, D] of kept or offered keys; losses: their last raw KL [k]."""

    capacity: int
    seed: int
    embed: Callable[[Keys], Floats]
    losses: Callable[[Keys], Floats]


class Sequential(Reservoir, ABC):
    """Newcomers are taken one after the other, and `victim` says which slot each takes; it ranks nothing."""

    def __init__(self, situation: Situation) -> None:
        super().__init__(situation.capacity, loss_weight=0.0, uniform_floor=1.0, seed=situation.seed)
        self._situation = situation
        self._random = np.random.default_rng([situation.seed, 17])
        self._held = np.full(situation.capacity, -1, np.int64)

    @abstractmethod
    def victim(self, key: int, arrival: int) -> int | None:
        """The slot that newcomer `key`, arrival number `arrival` from 0, takes; None where it is turned away."""

    def placed(self, slot: int, key: int) -> None:
        """Newcomer `key` took the slot."""

    def compete(self, keys: Keys, ranks: NDArray[np.complex128]) -> tuple[NDArray[np.bool_], Any]:
        """As Reservoir.compete, one new key after the other."""
        before = self._held.copy()
        for number, key in enumerate(keys.tolist()):
            free = np.flatnonzero(self._held < 0)
            slot = int(free[0]) if free.size else self.victim(key, self.arrivals + number)
            if slot is not None:
                self._held[slot] = key
                self.placed(slot, key)
        leaving = np.setdiff1d(before[before >= 0], self._held)
        return np.isin(keys, self._held), self.slots(leaving)


class Lars(Sequential):
    """Loss-aware reservoir sampling (Buzzega et al. 2020, section 3.3; as in Mammoth).

    Arrival t enters with probability n / t, as in a plain reservoir; its victim is drawn in proportion to minus the last
    loss, scaled to [0, 1] between the least and the most of all.
    """

    def victim(self, key: int, arrival: int) -> int | None:
        """By chance, the lower the loss the likelier."""
        if self._random.integers(arrival + 1) >= self._held.size:
            return None
        losses = self._situation.losses(self._held)
        score = losses.max() - losses
        total = float(score.sum())
        return int(self._random.choice(score.size, p=score / total if total else None))


class MinimumRedundancy(Sequential):
    """Minimum redundancy (Purushwalkam et al. 2022, section 4.2): out goes what is nearest to its nearest neighbour.

    Features follow those of the network by an average with weight 0.5 whenever a pair is replayed. Of the two that are nearest
    to each other one leaves by chance: sending the earlier one away would make it half a first-in-first-out queue.
    """

    _features: Floats
    """Unit features by slot, and their cosines: -1 with itself and where a slot is empty."""
    _cosines: Floats

    def offer(self, keys: ArrayLike, phi: ArrayLike) -> Offer:
        """As Reservoir.offer."""
        new = np.asarray(keys, np.int64)
        features = self._situation.embed(new)
        if not self.arrivals and new.size:
            self._features = np.zeros((self._held.size, features.shape[1]))
            self._cosines = np.full((self._held.size, self._held.size), -1.0)
        self._newcomers = dict(zip(new.tolist(), features, strict=True))
        return super().offer(keys, phi)

    def victim(self, key: int, arrival: int) -> int | None:
        """Among the kept and the newcomer."""
        nearest = np.append(self._cosines.max(1), (self._features @ self._newcomers[key]).max())
        tied = np.flatnonzero(nearest >= nearest.max() - 1e-12)
        slot = int(self._random.choice(tied))
        return slot if slot < self._held.size else None

    def placed(self, slot: int, key: int) -> None:
        """The newcomer's features take the slot."""
        self._write_features(np.array([slot]), self._newcomers[key][None])

    def update(self, keys: ArrayLike, phi: ArrayLike) -> None:
        """As Reservoir.update."""
        super().update(keys, phi)
        slots = np.flatnonzero(np.isin(self._held, keys))
        if slots.size:
            self._write_features(slots, (self._features[slots] + self._situation.embed(self._held[slots])) / 2)

    def _write_features(self, slots: Keys, features: Floats) -> None:
        self._features[slots] = features / np.linalg.norm(features, axis=1, keepdims=True)
        cosines = self._features[slots] @ self._features.T
        cosines[:, self._held < 0] = -1.0
        cosines[np.arange(slots.size), slots] = -1.0
        self._cosines[slots], self._cosines[:, slots] = cosines, cosines.T


def _ours(situation: Situation, **settings: Any) -> Reservoir:
    return Reservoir(**{"capacity": situation.capacity, "uniform_floor": 1.0, "seed": situation.seed} | settings)


def _first_out(situation: Situation) -> Reservoir:
    return _ours(situation, noise=0.0, loss_weight=0.0, half_life=float(situation.capacity))


def _scored(loss_weight: float, turns: float) -> Callable[[Situation], Reservoir]:
    return lambda it: _ours(it, loss_weight=loss_weight, half_life=turns * it.capacity)


WEIGHTS = (-1.0, 0.0, 0.5, 1.0)
HALF_LIVES = (math.inf, 10.0, 3.0)
"""In capacities."""
OURS = {
    f"ours {weight:g}, {'inf' if turns == math.inf else f'{turns:g}n'}": _scored(weight, turns)
    for weight in WEIGHTS
    for turns in HALF_LIVES
    if (weight, turns) != (0.0, math.inf)  # that is `uniform`
}
"""Of each loss_weight and half_life."""
POLICIES: dict[str, Callable[[Situation], Reservoir]] = {
    NONE: _first_out,
    "fifo": _first_out,
    "uniform": lambda it: _ours(it, loss_weight=0.0),
    "greedy": lambda it: _ours(it, noise=0.0),
    "lars": Lars,
    "minred": MinimumRedundancy,
    **OURS,
    "ours 1, inf, drawn by loss": lambda it: _ours(it, uniform_floor=0.25),
    IID: lambda it: _ours(it, loss_weight=0.0),
}
"""By name; `greedy` is seed 001's rule."""
