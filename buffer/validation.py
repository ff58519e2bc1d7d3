"""Validation: arguments become arrays, or are refused in one line before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

PHI_LIMIT = 2.0
"""phi lies within [-PHI_LIMIT, PHI_LIMIT]: no priority, however large, outweighs chance for ever."""
LOSS_WEIGHT_LIMIT = 100.0
"""Largest absolute loss_weight: beyond it sums of exp(loss_weight * phi) lose all precision."""

MAX_SHARDS = 1024
"""Each arrival of one shard skips the random numbers of all others."""


def require(condition: bool, what: str, expected: str, found: object) -> None:
    """Raise ValueError "`what` must be `expected`, got `found`" unless the condition holds."""
    if not condition:
        raise ValueError(f"{what} must be {expected}, got {found}")


def require_same(state: Mapping[str, Any], own: Mapping[str, Any], what: str) -> None:
    """Raise ValueError unless a state has the names and the settings of one's own state."""
    require(state.keys() == own.keys(), what, f"made of {', '.join(own)}", ", ".join(state))
    require(state["settings"] == own["settings"], "the state's settings", f"{own['settings']}", state["settings"])


def is_whole(value: object, least: int) -> TypeGuard[int]:
    """Return whether the value is an integer, of Python or numpy and no bool, of at least `least`."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= least


def rises(values: NDArray[Any]) -> bool:
    """Return whether the values are finite and each is larger than the one before."""
    return bool(np.all(np.isfinite(values)) and np.all(np.diff(values) > 0))


def key_vector(keys: ArrayLike) -> NDArray[np.int64]:
    """Return keys as int64 [k]. Raises ValueError for another shape or type."""
    array = np.asarray(keys)
    fits = array.ndim == 1 and (array.size == 0 or (array.dtype.kind in "iu" and np.can_cast(array.dtype, np.int64)))
    require(fits, "keys", "a vector of int64", f"{array.dtype} {list(array.shape)}")
    return array.astype(np.int64)


def number_vector(numbers: ArrayLike, what: str, limit: float, length: int | None = None) -> NDArray[np.float64]:
    """Return numbers as float64 [k], each finite and within [-limit, limit], `length` of them if given. Raises ValueError."""
    array = np.asarray(numbers)
    shape = f"{array.dtype} {list(array.shape)}"
    require(array.ndim == 1 and array.dtype.kind in "iuf", what, "a vector of floats", shape)
    require(length is None or array.size == length, what, f"one number for each of the {length} keys", shape)
    array = array.astype(np.float64)
    bad = array[~(np.abs(array) <= limit)]
    require(bad.size == 0, what, f"finite and within [-{limit:g}, {limit:g}]", bad[:8].tolist())
    return array


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a Reservoir, which explains them. Raises ValueError."""

    capacity: int
    loss_weight: float
    half_life: float
    noise: float
    uniform_floor: float
    seed: int
    shard: int
    shards: int

    def __post_init__(self) -> None:
        fits = is_whole(self.capacity, 1) and self.capacity < 1 << 31
        require(fits, "capacity", "a whole number of keys within [1, 2**31)", self.capacity)
        require(abs(self.loss_weight) <= LOSS_WEIGHT_LIMIT, "loss_weight", "within [-100, 100]", self.loss_weight)
        require(self.half_life > 1e-100, "half_life", "above 0 arrivals", self.half_life)
        require(0 <= self.noise <= 1e100, "noise", "finite and at least 0", self.noise)
        require(0 <= self.uniform_floor <= 1, "uniform_floor", "within [0, 1]", self.uniform_floor)
        require(is_whole(self.seed, 0) and self.seed < 1 << 64, "seed", "a whole number within [0, 2**64)", self.seed)
        countable = is_whole(self.shards, 1) and self.shards <= MAX_SHARDS
        require(countable, "shards", f"a whole number within [1, {MAX_SHARDS}]", self.shards)
        require(is_whole(self.shard, 0) and self.shard < self.shards, "shard", f"within [0, {self.shards})", self.shard)
