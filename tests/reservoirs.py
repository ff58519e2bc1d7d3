"""Reservoirs and streams of keys for their tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from buffer.reservoir import Reservoir

POLICIES: dict[str, dict[str, Any]] = {
    "uniform": {"noise": 1, "loss_weight": 0},
    "fifo": {"noise": 0, "loss_weight": 0, "half_life": 7.0},
    "greedy": {"noise": 0, "loss_weight": 1},
    "weighted": {"noise": 1, "loss_weight": 1},
    "easy first": {"noise": 1, "loss_weight": -1},
    "decayed": {"noise": 1, "loss_weight": 0.5, "half_life": 20.0},
}
phis = st.one_of(st.floats(-2, 2), st.sampled_from([-2.0, 0.0, 1.0, 2.0]))  # the second makes ties


def arange(count: int, start: int = 0) -> NDArray[np.int64]:
    return np.arange(start, start + count)


def kept_set(reservoir: Reservoir) -> set[int]:
    return set(reservoir.keys().tolist())


def same_state(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def reloaded(reservoir: Reservoir) -> Reservoir:
    """Another one with the same settings and its state."""
    other = Reservoir(**reservoir.state_dict()["settings"])
    other.load_state_dict(reservoir.state_dict())
    return other


def largest(reservoirs: list[Reservoir], count: int) -> set[int]:
    """The oracle: sort every kept key (they are their arrival numbers) by score, of equal ones the earlier first."""
    keys = np.concatenate([reservoir.keys() for reservoir in reservoirs])
    found = np.concatenate([reservoir.scores(reservoir.keys()) for reservoir in reservoirs])
    pairs = sorted(zip(-found, keys.tolist(), strict=True))
    return {key for _, key in pairs[:count]}


def within(estimates: list[float], truth: float, *, precision: float) -> bool:
    """Return whether the mean is within four standard errors of the truth and its standard error at most `precision`."""
    error = float(np.std(estimates, ddof=1)) / math.sqrt(len(estimates))
    return error <= precision and abs(float(np.mean(estimates)) - truth) <= 4 * error
