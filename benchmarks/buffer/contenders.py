"""Buffers that keep, draw and rate keys, each in the few lines its own documentation asks for, and ours among them."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from benchmarks.shared.paired import Floats, Keys
from buffer.reservoir import Reservoir

ALPHA, BETA = 0.6, 0.4
"""The exponents of prioritised experience replay, as its authors and both libraries set them."""


class PrioritisedBuffer(Protocol):
    """One way to hold `capacity` keys with their phi, the log of a weight; the constructor takes the capacity."""

    def offer(self, keys: Keys, phi: Floats) -> None:
        """Add new keys, of which the buffer may keep some."""

    def sample(self, count: int) -> Any:
        """Draw `count` keys; returns the handles by which `update` knows them."""

    def update(self, drawn: Any, phi: Floats) -> None:
        """Set the phi of drawn keys, by their handles."""


class OurBuffer:
    """The reservoir with so short a half-life that nearly every arrival is kept and another key leaves, as in the others."""

    def __init__(self, capacity: int) -> None:
        self.reservoir = Reservoir(capacity, half_life=capacity / 10, seed=0)

    def offer(self, keys: Keys, phi: Floats) -> None:
        """The keys with the lowest scores leave."""
        self.reservoir.offer(keys, phi)

    def sample(self, count: int) -> Keys:
        """The handles are the keys themselves."""
        return self.reservoir.sample(count).keys

    def update(self, drawn: Keys, phi: Floats) -> None:
        """The handles are keys."""
        self.reservoir.update(drawn, phi)


class TorchRLBuffer:
    """Its C++ segment trees under a tensor storage; new keys overwrite the oldest."""

    def __init__(self, capacity: int) -> None:
        self._torch: Any = importlib.import_module("torch")
        data: Any = importlib.import_module("torchrl.data")
        logging.getLogger("torchrl").setLevel(logging.WARNING)
        self._torch.set_num_threads(1)
        sampler = data.PrioritizedSampler(capacity, alpha=ALPHA, beta=BETA)
        self._replay = data.ReplayBuffer(storage=data.LazyTensorStorage(capacity), sampler=sampler)

    def offer(self, keys: Keys, phi: Floats) -> None:
        """A new key has the highest priority so far; its own is set by a second call."""
        index = self._replay.extend(self._torch.from_numpy(keys))
        self.update(index, phi)

    def sample(self, count: int) -> Any:
        """The handles are indices of the storage."""
        return self._replay.sample(count, return_info=True)[1]["index"]

    def update(self, drawn: Any, phi: Floats) -> None:
        """The handles are indices."""
        self._replay.update_priority(drawn, self._torch.from_numpy(np.exp(phi).astype(np.float32)))


class CpprbBuffer:
    """Its C++ segment trees over columns in numpy; new keys overwrite the oldest."""

    def __init__(self, capacity: int) -> None:
        module: Any = importlib.import_module("cpprb")
        self._replay = module.PrioritizedReplayBuffer(capacity, {"key": {"dtype": np.int64}}, alpha=ALPHA)

    def offer(self, keys: Keys, phi: Floats) -> None:
        """Keys are added with their priorities."""
        self._replay.add(key=keys, priorities=np.exp(phi))

    def sample(self, count: int) -> Any:
        """The handles are indices."""
        return self._replay.sample(count, beta=BETA)["indexes"]

    def update(self, drawn: Any, phi: Floats) -> None:
        """The handles are indices."""
        self._replay.update_priorities(drawn, np.exp(phi))


class LarsBuffer:
    """Loss-aware reservoir sampling (Buzzega et al. 2020): a uniform reservoir whose victims are drawn by their loss.

    Arrival number t enters with probability capacity / t, as in a plain reservoir; the victim is drawn in proportion to
    minus its loss, scaled to [0, 1] between the least and the greatest of all. Each arrival reads every kept loss.
    """

    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self.keys, self.losses = np.zeros(capacity, np.int64), np.zeros(capacity)
        self._seen = 0

    def offer(self, keys: Keys, phi: Floats) -> None:
        """Keys are added one by one once the buffer is full; phi is the loss, whose unit and zero do not matter here."""
        free = min(max(self.keys.size - self._seen, 0), keys.size)
        self.keys[self._seen : self._seen + free], self.losses[self._seen : self._seen + free] = keys[:free], phi[:free]
        self._seen += free
        for key, loss in zip(keys[free:].tolist(), phi[free:].tolist(), strict=True):
            self._seen += 1
            if self._random.integers(self._seen) < self.keys.size:
                slot = self.victim()
                self.keys[slot], self.losses[slot] = key, loss

    def victim(self) -> int:
        """Return the slot whose key leaves."""
        score = self.losses.max() - self.losses
        total = float(score.sum())
        return int(self._random.choice(score.size, p=score / total if total else None))

    def sample(self, count: int) -> Keys:
        """The handles are slots, drawn with equal probability."""
        return self._random.integers(min(self._seen, self.keys.size), size=count)

    def update(self, drawn: Keys, phi: Floats) -> None:
        """The handles are slots."""
        self.losses[drawn] = phi


@dataclass(frozen=True)
class BufferContender:
    """A buffer to be measured."""

    make: Callable[[int], PrioritisedBuffer]
    needs: str | None = None
    """The package that it needs, where that is not one of ours."""
    offered_at_once: int = 256
    """Keys in a batch of offers; 1 where it adds them one by one anyway, and each takes long."""


CONTENDERS = {
    "ours": BufferContender(OurBuffer),
    "torchrl": BufferContender(TorchRLBuffer, needs="torchrl"),
    "cpprb": BufferContender(CpprbBuffer, needs="cpprb"),
    "lars": BufferContender(LarsBuffer, offered_at_once=1),
}
