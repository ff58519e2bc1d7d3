"""Buffers that keep, draw and rate keys, each in the few lines its own documentation asks for, and ours among them."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from buffer.reservoir import Reservoir

Keys = NDArray[np.int64]
Floats = NDArray[np.float64]
ALPHA, BETA = 0.6, 0.4
"""Of prioritised experience replay, as its authors and both libraries set them."""


class Buffer(Protocol):
    """One way to hold `capacity` keys with their phi, the log of a weight; the constructor takes the capacity."""

    def offer(self, keys: Keys, phi: Floats) -> None:
        """Take in new keys, of which it may keep some."""

    def sample(self, count: int) -> Any:
        """Draw `count` keys; returns what `update` calls them by."""

    def update(self, drawn: Any, phi: Floats) -> None:
        """Rate drawn keys anew."""


class Ours:
    """The reservoir with so short a half-life that, as in the others, nearly every arrival is kept and another one goes."""

    def __init__(self, capacity: int) -> None:
        self._reservoir = Reservoir(capacity, half_life=capacity / 10, seed=0)

    def offer(self, keys: Keys, phi: Floats) -> None:
        """The lowest scores of the kept and the new together go."""
        self._reservoir.offer(keys, phi)

    def sample(self, count: int) -> Keys:
        """The keys themselves."""
        return self._reservoir.sample(count).keys

    def update(self, drawn: Keys, phi: Floats) -> None:
        """By key."""
        self._reservoir.update(drawn, phi)


class TorchRL:
    """Its C++ segment trees under a tensor storage; new keys overwrite the oldest."""

    def __init__(self, capacity: int) -> None:
        self._torch: Any = importlib.import_module("torch")
        data: Any = importlib.import_module("torchrl.data")
        logging.getLogger("torchrl").setLevel(logging.WARNING)
        self._torch.set_num_threads(1)
        sampler = data.PrioritizedSampler(capacity, alpha=ALPHA, beta=BETA)
        self._replay = data.ReplayBuffer(storage=data.LazyTensorStorage(capacity), sampler=sampler)

    def offer(self, keys: Keys, phi: Floats) -> None:
        """A new key has the highest priority so far until it is told its own, which takes a second call."""
        index = self._replay.extend(self._torch.from_numpy(keys))
        self.update(index, phi)

    def sample(self, count: int) -> Any:
        """Indices of the storage."""
        return self._replay.sample(count, return_info=True)[1]["index"]

    def update(self, drawn: Any, phi: Floats) -> None:
        """By index."""
        self._replay.update_priority(drawn, self._torch.from_numpy(np.exp(phi).astype(np.float32)))


class Cpprb:
    """Its C++ segment trees over columns in numpy; new keys overwrite the oldest."""

    def __init__(self, capacity: int) -> None:
        module: Any = importlib.import_module("cpprb")
        self._replay = module.PrioritizedReplayBuffer(capacity, {"key": {"dtype": np.int64}}, alpha=ALPHA)

    def offer(self, keys: Keys, phi: Floats) -> None:
        """With their priorities."""
        self._replay.add(key=keys, priorities=np.exp(phi))

    def sample(self, count: int) -> Any:
        """Indices."""
        return self._replay.sample(count, beta=BETA)["indexes"]

    def update(self, drawn: Any, phi: Floats) -> None:
        """By index."""
        self._replay.update_priorities(drawn, np.exp(phi))


class Lars:
    """Loss-aware reservoir sampling (Buzzega et al. 2020): a uniform reservoir whose victims are drawn by their loss.

    Arrival number t enters with probability capacity / t, as in a plain reservoir; the victim is drawn in proportion to
    minus its loss, scaled to [0, 1] between the least and the most of all. Each arrival looks at every kept loss.
    """

    def __init__(self, capacity: int) -> None:
        self._random = np.random.default_rng(0)
        self.keys, self.losses = np.zeros(capacity, np.int64), np.zeros(capacity)
        self._seen = 0

    def offer(self, keys: Keys, phi: Floats) -> None:
        """One after the other, once it is full; phi is the loss, whose unit and zero do not matter here."""
        free = min(max(self.keys.size - self._seen, 0), keys.size)
        self.keys[self._seen : self._seen + free], self.losses[self._seen : self._seen + free] = keys[:free], phi[:free]
        self._seen += free
        for key, loss in zip(keys[free:].tolist(), phi[free:].tolist(), strict=True):
            self._seen += 1
            if self._random.integers(self._seen) < self.keys.size:
                slot = self._victim()
                self.keys[slot], self.losses[slot] = key, loss

    def _victim(self) -> int:
        score = self.losses.max() - self.losses
        total = float(score.sum())
        return int(self._random.choice(score.size, p=score / total if total else None))

    def sample(self, count: int) -> Keys:
        """Slots, all with the same probability."""
        return self._random.integers(min(self._seen, self.keys.size), size=count)

    def update(self, drawn: Keys, phi: Floats) -> None:
        """By slot."""
        self.losses[drawn] = phi


@dataclass(frozen=True)
class Contender:
    """A buffer to be measured."""

    make: Callable[[int], Buffer]
    needs: str | None = None
    """The package it is measured with, where that is not one of ours."""
    offered_at_once: int = 256
    """Keys in a batch of offers; 1 where it takes them one by one anyway, and each takes long."""


CONTENDERS = {
    "ours": Contender(Ours),
    "torchrl": Contender(TorchRL, needs="torchrl"),
    "cpprb": Contender(Cpprb, needs="cpprb"),
    "lars": Contender(Lars, offered_at_once=1),
}
