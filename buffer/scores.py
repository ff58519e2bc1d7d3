"""The structures over the slots' scores: vectorised trees, counted random numbers, and the cuts an item has survived.

Both trees are complete binary trees in one array: node i has the children 2i and 2i + 1, the leaves are the slots. A
batch of k leaves is written level by level, so Python runs log2(n) steps for the whole batch and not for each key.
Parents are always computed anew from their children, never adjusted by a difference: sums do not drift, and a tree
rebuilt from its leaves is equal to the old one bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]
Floats = NDArray[np.float64]


def uniforms(seed: int, stream: int, start: int, count: int) -> Floats:
    """Numbers `start` to `start + count - 1` of an endless row of uniforms in (0, 1): float64 [count].

    Each is a pure function of (seed, stream, its number), by the counter of Philox (Salmon et al. 2011): it can be
    looked at ahead of time, does not depend on how arrivals fall into batches, and leaves no generator state to save.
    """
    # One counter value makes four words; using only the first keeps the numbering simple and costs nanoseconds.
    words = np.random.Philox(key=seed + (stream << 64), counter=start).random_raw(4 * count)[::4]
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # 52 bits: the largest value is still below 1


class _Tree:
    """A binary tree whose inner nodes combine their two children; empty slots hold the operation's neutral element."""

    def __init__(self, capacity: int, combine: np.ufunc, neutral: float, dtype: type[np.generic]) -> None:
        self._width = 1 << (capacity - 1).bit_length()
        self._combine = combine
        self._nodes: NDArray[Any] = np.full(2 * self._width, neutral, dtype)

    @property
    def root(self) -> Any:
        """All leaves combined."""
        return self._nodes[1]

    def __getitem__(self, slots: Slots) -> NDArray[Any]:
        return self._nodes[slots + self._width]

    def __setitem__(self, slots: Slots, values: NDArray[Any]) -> None:
        """Write leaves; where a slot is repeated the last value stays."""
        nodes = slots + self._width
        self._nodes[nodes] = values
        level = self._width
        while level > 1 and nodes.size:
            level //= 2
            if level <= 2 * nodes.size:  # near the root a whole level is cheaper than picking nodes from it
                left, right = self._nodes[2 * level : 4 * level : 2], self._nodes[2 * level + 1 : 4 * level : 2]
                self._combine(left, right, out=self._nodes[level : 2 * level])
            else:
                nodes >>= 1
                self._nodes[nodes] = self._combine(self._nodes[2 * nodes], self._nodes[2 * nodes + 1])


class MinTree(_Tree):
    """Slots by value, smallest first. Values are float64, or complex128 where a tie needs a second number.

    numpy orders complex numbers by real, then imaginary part: one array holds "score, then arrival".
    """

    def __init__(self, capacity: int, dtype: type[np.float64] | type[np.complex128]) -> None:
        super().__init__(capacity, np.minimum, np.inf, dtype)

    def smallest(self, count: int) -> Slots:
        """The slots of the `count` smallest leaves, smallest first: int64 [count].

        Those leaves lie under the `count` smallest nodes of every level, so one descent with a front of that many
        nodes finds them. `count` must not exceed the number of filled slots.
        """
        nodes = np.ones(min(count, 1), np.int64)
        for _ in range(self._width.bit_length() - 1):
            nodes = np.concatenate((2 * nodes, 2 * nodes + 1))
            if nodes.size > count:
                nodes = nodes[np.argpartition(self._nodes[nodes], count - 1)[:count]]
        nodes.sort()  # equal values come in the order of their slots
        return nodes[np.argsort(self._nodes[nodes], kind="stable")] - self._width


class SumTree(_Tree):
    """Slots by weight, for drawing a slot with the probability of its share. The filled slots are the first `count`."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity, np.add, 0.0, np.float64)

    def locate(self, points: Floats, scale: float, floor: float, count: int) -> Slots:
        """The slots under `points` on a line where slot i < count takes `scale * weight_i + floor`: int64 [k]."""
        points, nodes, span = points.copy(), np.ones(points.size, np.int64), self._width
        while span > 1:
            span //= 2
            nodes *= 2
            # Exact where the left child is full; where it is not, nothing is filled to its right.
            mass = scale * self._nodes[nodes] + floor * span
            right = points >= mass
            points -= np.where(right, mass, 0.0)
            nodes += right
        return np.minimum(nodes - self._width, count - 1)  # rounding may carry the last point past the last slot


class Cuts:
    """The largest score turned away since a given step: what an item had to beat to be still here.

    A stack of suffix maxima: steps rise, scores fall. Where scores never change it holds one number, the (n + 1)-th
    largest score of all; after `update` lowers some scores, later cuts may be lower than earlier ones.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.scores: list[float] = []

    @property
    def latest(self) -> float:
        """The newest entry, -inf while nothing has been turned away."""
        return self.scores[-1] if self.scores else -np.inf

    def add(self, step: int, score: float) -> None:
        """Note a score turned away at `step` (never before the last one)."""
        while self.scores and self.scores[-1] <= score:
            self.steps.pop()
            self.scores.pop()
        if not self.steps or self.steps[-1] != step:
            self.steps.append(step)
            self.scores.append(score)

    def since(self, steps: Floats) -> Floats:
        """The largest score turned away at or after each step, -inf where none was: float64 [k]."""
        first = np.searchsorted(np.asarray(self.steps, np.float64), steps)
        return np.asarray([*self.scores, -np.inf])[first]
