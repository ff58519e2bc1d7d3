"""From priorities to phi, the log-weight of the reservoir.

A priority is a number >= 0 that says how much is left to learn from a pair. It is never stored as it is, because its scale drifts
while the network trains: it is standardised when it is measured, against the priorities of its time. Two rules keep a pair from
holding a high phi for ever: phi shrinks towards the average as its measurement ages, and a pair that stays hard however often it
is replayed counts as noise, and its phi is lowered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from buffer.validation import PHI_LIMIT, is_whole, key_vector, number_vector, require, require_same

PRIORITY_LIMIT = 1e100
"""Largest absolute priority that is accepted; its square must be a number too."""
_REACH = 4.0  # standard deviations: as far as one priority can pull the distribution
_SETTLED = 100.0  # priorities seen before the distribution may limit the next ones


class PriorityScale:
    """Standardises priorities against their running distribution.

    memory: number of priorities (at least 1) over which the exponentially weighted mean and variance reach back. age_half_life:
    number of steps (above 0) after which the weight of a measured phi has halved.
    """

    def __init__(self, *, memory: float = 10_000, age_half_life: float = 1_000) -> None:
        require(1 <= memory < math.inf, "memory", "finite and at least 1 priority", memory)
        require(age_half_life > 0, "age_half_life", "above 0 steps", age_half_life)
        self._settings = {"memory": float(memory), "age_half_life": float(age_half_life)}
        self._weight = self._mean = self._squares = 0.0  # exponentially weighted; squares are about the mean

    @property
    def mean(self) -> float:
        """The running mean of priorities; 0 before the first."""
        return self._mean

    @property
    def deviation(self) -> float:
        """The running standard deviation of priorities; 0 before the second."""
        return math.sqrt(self._squares / self._weight) if self._weight else 0.0

    def observe(self, priorities: ArrayLike) -> NDArray[np.float64]:
        """Add priorities, float [k], that were measured at one time to the distribution, and return their phi.

        Once the distribution has settled, a priority beyond four standard deviations counts as four. Otherwise one outlier would
        make all others look alike for as long as the memory lasts. Raises ValueError.
        """
        found = number_vector(priorities, "priorities", PRIORITY_LIMIT)
        if found.size:
            limited = self._weight >= _SETTLED and not self._degenerate
            reach = _REACH * self.deviation if limited else math.inf
            self._merge(np.clip(found, self._mean - reach, self._mean + reach))
        return self.phi(found)

    def phi(self, priorities: ArrayLike) -> NDArray[np.float64]:
        """Return standardised priorities within [-2, 2], float64 [k]; 0 while all seen are equal. Raises ValueError."""
        found = number_vector(priorities, "priorities", PRIORITY_LIMIT)
        if self._degenerate:
            return np.zeros(found.size)
        return np.clip((found - self._mean) / self.deviation, -PHI_LIMIT, PHI_LIMIT)

    def aged(self, phi: ArrayLike, age_steps: ArrayLike) -> NDArray[np.float64]:
        """Return the value of phi, float [k], `age_steps`, [k] >= 0, after it was measured: float64 [k]. Raises ValueError."""
        value = number_vector(phi, "phi", PHI_LIMIT)
        age = number_vector(age_steps, "age_steps", 2.0**63, value.size)
        require(bool(np.all(age >= 0)), "age_steps", "at least 0", age[age < 0][:8].tolist())
        return value * np.exp2(-age / self._settings["age_half_life"])

    @property
    def _degenerate(self) -> bool:
        """Whether the priorities seen differ by no more than rounding."""
        return self.deviation <= 1e-12 * abs(self._mean)

    def _merge(self, priorities: NDArray[np.float64]) -> None:
        """Fade the earlier priorities and add a batch: the parallel form of mean and variance (Chan et al. 1979)."""
        fade = (1 - 1 / self._settings["memory"]) ** priorities.size
        before, mean = fade * self._weight, float(priorities.mean())
        self._weight = before + priorities.size
        shift = mean - self._mean
        between = shift**2 * before * priorities.size / self._weight
        self._squares = fade * self._squares + float(np.sum((priorities - mean) ** 2)) + between
        self._mean += shift * priorities.size / self._weight

    def state_dict(self) -> dict[str, Any]:
        """Return the settings and the three running numbers, all plain floats."""
        running = {"weight": self._weight, "mean": self._mean, "squares": self._squares}
        return {"settings": dict(self._settings), **running}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. Raises ValueError for other settings or a damaged state."""
        require_same(state, self.state_dict(), "the state")
        weight, mean, squares = (float(state[name]) for name in ("weight", "mean", "squares"))
        sound = math.isfinite(weight + mean + squares) and weight >= 0 and squares >= 0
        require(sound, "the state's weight, mean and squares", "finite, the first and last at least 0", dict(state))
        self._weight, self._mean, self._squares = weight, mean, squares


class Stubbornness:
    """Lowers the phi of pairs that do not improve over replays: their high priority is noise.

    A replay fails where the priority is not below (1 - improvement) times the lowest one so far. From `patience` failures in a
    row, phi is multiplied by `decay` once for each failure beyond patience - 1; one success resets the count. Only phi above
    0 changes: a low priority need not improve. patience >= 1; improvement within [0, 1); decay within [0, 1].
    """

    def __init__(self, *, patience: int = 3, improvement: float = 0.05, decay: float = 0.5) -> None:
        require(is_whole(patience, 1), "patience", "a whole number of at least 1 replay", patience)
        require(0 <= improvement < 1, "improvement", "within [0, 1)", improvement)
        require(0 <= decay <= 1, "decay", "within [0, 1]", decay)
        self._settings = {"patience": patience, "improvement": improvement, "decay": decay}
        self._records: dict[int, tuple[float, int]] = {}  # key: lowest priority, failures since

    def __len__(self) -> int:
        return len(self._records)

    def damped(self, keys: ArrayLike, priorities: ArrayLike, phi: ArrayLike) -> NDArray[np.float64]:
        """Record one replay of each key, int64 [k], with its priority, float [k] >= 0, and return phi, lowered where it fails.

        Raises ValueError.
        """
        key = key_vector(keys)
        priority = number_vector(priorities, "priorities", PRIORITY_LIMIT, key.size)
        value = number_vector(phi, "phi", PHI_LIMIT, key.size)
        require(bool(np.all(priority >= 0)), "priorities", "at least 0", priority[priority < 0][:8].tolist())
        replays = zip(key.tolist(), priority.tolist(), strict=True)
        failures = np.asarray([self._replay(*replay) for replay in replays], np.int64)
        excess = np.where(value > 0, np.maximum(failures - self._settings["patience"] + 1, 0), 0)
        return value * self._settings["decay"] ** excess

    def _replay(self, key: int, priority: float) -> int:
        """Record a replay and return its failures in a row."""
        lowest, failures = self._records.get(key, (math.inf, 0))
        improved = priority < (1 - self._settings["improvement"]) * lowest
        self._records[key] = record = (priority, 0) if improved else (lowest, failures + 1)
        return record[1]

    def forget(self, keys: ArrayLike) -> None:
        """Drop the record of keys that left the reservoir, int64 [k]; unknown ones are ignored. Raises ValueError."""
        for key in key_vector(keys).tolist():
            self._records.pop(key, None)

    def state_dict(self) -> dict[str, Any]:
        """Return the settings and three vectors: keys int64, lowest float64, failures int64, in the order of first replay."""
        lowest, failures = zip(*self._records.values(), strict=True) if self._records else ((), ())
        return {
            "settings": dict(self._settings),
            "keys": np.asarray(list(self._records), np.int64),
            "lowest": np.asarray(lowest, np.float64),
            "failures": np.asarray(failures, np.int64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. Raises ValueError for other settings or a damaged state."""
        require_same(state, self.state_dict(), "the state")
        keys, failures = key_vector(state["keys"]), key_vector(state["failures"])
        lowest = number_vector(state["lowest"], "the state's lowest priorities", PRIORITY_LIMIT, keys.size)
        sound = keys.size == failures.size == np.unique(keys).size and bool(np.all(failures >= 0))
        require(sound, "the state's records", "one for each key", f"{keys.size} keys, {failures.size} failures")
        self._records = dict(zip(keys.tolist(), zip(lowest.tolist(), failures.tolist(), strict=True), strict=True))
