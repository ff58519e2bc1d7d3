"""Policies that decide which pairs stay: settings of our reservoir, and policies of others as subclasses of it.

All policies draw uniformly from the kept pairs, except the one that is named so, and therefore differ in retention only. The
policies of others override which pair leaves, and inherit everything else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.shared.paired import Floats, Keys
from buffer.reservoir import Offer, Reservoir

IID, NONE = "iid", "none"
"""The references: the same pairs in shuffled order, with room for all; and a memory that holds the new pairs of one step."""


@dataclass(frozen=True)
class Situation:
    """What a policy can know. embed: returns unit features [k, D] of kept or offered keys.

    priorities: returns their last ones [k].
    """

    capacity: int
    seed: int
    embed: Callable[[Keys], Floats]
    priorities: Callable[[Keys], Floats]


class Sequential(Reservoir, ABC):
    """A reservoir that adds new keys one after the other. `victim` chooses the slot that each replaces; keys are not ranked."""

    def __init__(self, situation: Situation) -> None:
        super().__init__(situation.capacity, loss_weight=0.0, uniform_floor=1.0, seed=situation.seed)
        self._situation = situation
        self._random = np.random.default_rng([situation.seed, 17])
        self._held = np.full(situation.capacity, -1, np.int64)

    @abstractmethod
    def victim(self, key: int, arrival: int) -> int | None:
        """Return the slot that a new key replaces, or None if the key is not kept. arrival: the number of the key, from 0."""

    def placed(self, slot: int, key: int) -> None:
        """Record that a new key was put into the slot."""

    def compete(self, keys: Keys, ranks: NDArray[np.complex128]) -> tuple[NDArray[np.bool_], Any]:
        """See Reservoir.compete; the new keys are handled one after the other."""
        before = self._held.copy()
        for number, key in enumerate(keys.tolist()):
            free = np.flatnonzero(self._held < 0)
            slot = int(free[0]) if free.size else self.victim(key, self.arrivals + number)
            if slot is not None:
                self._held[slot] = key
                self.placed(slot, key)
        leaving = np.setdiff1d(before[before >= 0], self._held)
        return np.isin(keys, self._held), self.slots(leaving)


class LarsPolicy(Sequential):
    """Loss-aware reservoir sampling (Buzzega et al. 2020, section 3.3; as in Mammoth).

    Arrival t enters with probability n / t, as in a plain reservoir. It replaces a pair that is drawn with a probability
    proportional to (largest loss of all kept pairs) - (last loss of the pair). The loss is the priority here.
    """

    def victim(self, key: int, arrival: int) -> int | None:
        """Draw the slot to replace: the lower the loss of its pair, the more probable. None if the new key is not kept."""
        if self._random.integers(arrival + 1) >= self._held.size:
            return None
        losses = self._situation.priorities(self._held)
        score = losses.max() - losses
        total = float(score.sum())
        return int(self._random.choice(score.size, p=score / total if total else None))


class MinimumRedundancy(Sequential):
    """Minimum redundancy (Purushwalkam et al. 2022, section 4.2): of the two most similar pairs, one leaves.

    The stored features of a pair are updated at each replay, as an average with weight 0.5. The pair that leaves is chosen at
    random from the two: if it always were the earlier one, this would be half a first-in-first-out queue.
    """

    _features: Floats
    """Unit features by slot, and their cosines; -1 on the diagonal and for empty slots."""
    _cosines: Floats

    def offer(self, keys: ArrayLike, phi: ArrayLike) -> Offer:
        """See Reservoir.offer."""
        new = np.asarray(keys, np.int64)
        features = self._situation.embed(new)
        if not self.arrivals and new.size:
            self._features = np.zeros((self._held.size, features.shape[1]))
            self._cosines = np.full((self._held.size, self._held.size), -1.0)
        self._new_features = dict(zip(new.tolist(), features, strict=True))
        return super().offer(keys, phi)

    def victim(self, key: int, arrival: int) -> int | None:
        """Return the slot of one of the kept pairs, or None if the new one leaves."""
        nearest = np.append(self._cosines.max(1), (self._features @ self._new_features[key]).max())
        tied = np.flatnonzero(nearest >= nearest.max() - 1e-12)
        slot = int(self._random.choice(tied))
        return slot if slot < self._held.size else None

    def placed(self, slot: int, key: int) -> None:
        """Store the features of the new key."""
        self._write_features(np.array([slot]), self._new_features[key][None])

    def update(self, keys: ArrayLike, phi: ArrayLike) -> None:
        """See Reservoir.update."""
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
"""Half-lives of the policies, in capacities."""
OURS = {
    f"ours {weight:g}, {'inf' if turns == math.inf else f'{turns:g}n'}": _scored(weight, turns)
    for weight in WEIGHTS
    for turns in HALF_LIVES
    if (weight, turns) != (0.0, math.inf)  # that is `uniform`
}
"""The reservoir with each loss_weight and half_life."""
POLICIES: dict[str, Callable[[Situation], Reservoir]] = {
    NONE: _first_out,
    "fifo": _first_out,
    "uniform": lambda it: _ours(it, loss_weight=0.0),
    "greedy": lambda it: _ours(it, noise=0.0),
    "lars": LarsPolicy,
    "minred": MinimumRedundancy,
    **OURS,
    "ours 1, inf, drawn by loss": lambda it: _ours(it, uniform_floor=0.25),
    IID: lambda it: _ours(it, loss_weight=0.0),
}
"""The policies by name; `greedy` is the rule from the blog post on live video with which this reservoir began."""
