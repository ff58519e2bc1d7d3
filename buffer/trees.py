"""Vectorised trees over the slots of a reservoir: one finds the smallest values, the other draws by weight.

A node has FAN_OUT children, the leaves are the slots. A batch of k leaves is written level by level, so that Python runs a few
steps for each level and none for each key; the children of a node lie in one or two lines of the cache. A parent is always
computed from all its children and never adjusted by a difference: sums do not drift, and a tree that is rebuilt from its
leaves equals the old one bit for bit.
"""

from __future__ import annotations

import itertools
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]
Floats = NDArray[np.float64]

FAN_OUT = 8
TOP_NODES = 4096
"""A level of at most so many nodes has no parents; it is searched as a whole."""


class _Tree:
    """A tree whose nodes combine their FAN_OUT children in order; empty slots hold the neutral element of the operation."""

    def __init__(self, capacity: int, combine: np.ufunc, neutral: float, dtype: type[np.generic]) -> None:
        self._combine = combine
        depth = next(depth for depth in itertools.count() if capacity <= TOP_NODES * FAN_OUT**depth)
        top = -(-capacity // FAN_OUT**depth)
        # From the leaves up; the children of node i are nodes FAN_OUT * i and following of the level before.
        self._levels = [np.full(top * FAN_OUT**height, neutral, dtype) for height in range(depth, -1, -1)]

    @property
    def root(self) -> Any:
        """The combination of all leaves."""
        return self._combine.reduce(self._levels[-1])

    def __getitem__(self, slots: Slots) -> NDArray[Any]:
        return self._levels[0].take(slots)

    def __setitem__(self, slots: Slots, values: NDArray[Any]) -> None:
        """Write leaves. Where a slot is repeated, its last value stays."""
        self._levels[0][slots] = values
        nodes = slots
        for level, parents in itertools.pairwise(self._levels):
            nodes = nodes // FAN_OUT if nodes.size < parents.size else np.arange(parents.size)
            # One child after the other: the order in which ufunc.reduce adds depends on the shape of the batch.
            values = reduce(self._combine, _children(level, nodes).T)
            changed = np.flatnonzero(values != parents.take(nodes))
            nodes = nodes[changed]
            parents[nodes] = values[changed]


class MinTree(_Tree):
    """Finds the slots with the smallest values. Values are float64, or complex128 where a tie needs a second number.

    numpy orders complex numbers by their real part, then by their imaginary part: one array holds "score, then arrival".
    """

    def __init__(self, capacity: int, dtype: type[np.float64] | type[np.complex128]) -> None:
        super().__init__(capacity, np.minimum, np.inf, dtype)

    def smallest(self, count: int) -> Slots:
        """Return the slots of the `count` smallest leaves, smallest first: int64 [count]. Of equal leaves the lowest slots win.

        Those leaves lie under the `count` smallest nodes of every level, so that one descent with a front of about as many
        nodes finds them. `count` must not exceed the number of filled slots.
        """
        nodes, values, bound = np.arange(self._levels[-1].size), self._levels[-1], np.inf
        for level in reversed(self._levels[:-1]):
            if values.size > 2 * count:  # otherwise choosing costs more than reading all children
                front = _smallest(values, count)
                nodes, bound = nodes[front], values[front].real.max(initial=-np.inf)
            values = _children(level, nodes).ravel()
            within = np.flatnonzero(values.real <= bound)
            nodes, values = nodes[within // FAN_OUT] * FAN_OUT + within % FAN_OUT, values[within]
        front = _smallest(values, count)
        return nodes[front[np.argsort(values[front], kind="stable")]]


class SumTree(_Tree):
    """Draws a slot with the probability of its share of all weights. The filled slots are the first `count`."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity, np.add, 0.0, np.float64)

    def locate(self, points: Floats, scale: float, floor: float, count: int) -> Slots:
        """Find the slots under `points`, float64 [k], on a line where slot i < count takes `scale * weight_i + floor`.

        Returns int64 [k].
        """
        span = FAN_OUT ** (len(self._levels) - 1)
        # The mass of a full node is exact. To the right of a node that is not full, no slot is filled.
        edges = np.append(0.0, np.cumsum(scale * self._levels[-1] + floor * span))
        nodes = np.searchsorted(edges[1:-1], points, side="right")
        rest, which = points - edges[nodes], np.arange(points.size)
        edges = np.zeros((FAN_OUT + 1, points.size))
        for level in reversed(self._levels[:-1]):
            span //= FAN_OUT
            np.add(scale * _children(level, nodes).T, floor * span, out=edges[1:])
            for left, right in itertools.pairwise(edges):
                right += left
            child = np.count_nonzero(edges[1:-1] <= rest, axis=0)
            rest -= edges[child, which]
            nodes = nodes * FAN_OUT + child
        return np.minimum(nodes, count - 1)  # rounding may carry the last point past the last slot


def _children(level: NDArray[Any], nodes: Slots) -> NDArray[Any]:
    """Return the values of the children of the nodes, which lie in this level: [k, FAN_OUT]."""
    return level.reshape(-1, FAN_OUT).take(nodes, axis=0)


def _smallest(values: NDArray[Any], count: int) -> Slots:
    """Return the positions of the min(count, k) smallest of k values, rising: int64. Of equal values the first ones win."""
    if not 0 < count < values.size:
        return np.arange(min(count, values.size))
    major = values.real  # of plain floats too; many times as fast as comparing complex numbers
    last = np.partition(major, count - 1)[count - 1]
    chosen = major < last
    ties = np.flatnonzero(major == last)
    missing = count - np.count_nonzero(chosen)
    if missing < ties.size:
        ties = ties[np.argsort(values.imag[ties], kind="stable")[:missing]]
    chosen[ties] = True
    return np.flatnonzero(chosen)
