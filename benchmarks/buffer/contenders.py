"""The buffers that are compared, ours and others'. Each is used in the few lines that its own documentation recommends."""

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
    """A buffer that holds `capacity` keys with their phi, the log of a weight. The constructor takes the capacity."""

    def offer(self, keys: Keys, phi: Floats) -> None:
        """Add new keys, of which the buffer may keep some."""

    def sample(self, count: int) -> Any:
        """Draw `count` keys; return handles of these keys for `update`."""

    def update(self, drawn: Any, phi: Floats) -> None:
        """Set the phi of drawn keys, which are given by their handles."""


class OurBuffer:
    """Our reservoir.

    Its half-life is so short that, as in the other buffers, nearly every new key is kept and another one leaves.
    """

    def __init__(self, capacity: int) -> None:
        self.reservoir = Reservoir(capacity, half_life=capacity / 10, seed=0)

    def offer(self, keys: Keys, phi: Floats) -> None:
        """Add keys; those with the lowest scores leave."""
        self.reservoir.offer(keys, phi)

    def sample(self, count: int) -> Keys:
        """Draw keys, which are their own handles."""
        return self.reservoir.sample(count).keys

    def update(self, drawn: Keys, phi: Floats) -> None:
        """Set the phi of these keys."""
        self.reservoir.update(drawn, phi)


class TorchRLBuffer:
    """TorchRL's buffer: segment trees in C++ under a storage of tensors. New keys overwrite the oldest."""

    def __init__(self, capacity: int) -> None:
        self._torch: Any = importlib.import_module("torch")
        data: Any = importlib.import_module("torchrl.data")
        logging.getLogger("torchrl").setLevel(logging.WARNING)
        self._torch.set_num_threads(1)
        sampler = data.PrioritizedSampler(capacity, alpha=ALPHA, beta=BETA)
        self._replay = data.ReplayBuffer(storage=data.LazyTensorStorage(capacity), sampler=sampler)

    def offer(self, keys: Keys, phi: Floats) -> None:
        """Add keys. TorchRL gives each the highest priority so far, so a second call sets its own priority."""
        index = self._replay.extend(self._torch.from_numpy(keys))
        self.update(index, phi)

    def sample(self, count: int) -> Any:
        """Draw keys; return their indices in the storage as handles."""
        return self._replay.sample(count, return_info=True)[1]["index"]

    def update(self, drawn: Any, phi: Floats) -> None:
        """Set the phi of the keys at these indices."""
        self._replay.update_priority(drawn, self._torch.from_numpy(np.exp(phi).astype(np.float32)))


class CpprbBuffer:
    """The buffer of cpprb: segment trees in C++ over columns in numpy. New keys overwrite the oldest."""

    def __init__(self, capacity: int) -> None:
        module: Any = importlib.import_module("cpprb")
        self._replay = module.PrioritizedReplayBuffer(capacity, {"key": {"dtype": np.int64}}, alpha=ALPHA)

    def offer(self, keys: Keys, phi: Floats) -> None:
        """Add keys with their priorities."""
        self._replay.add(key=keys, priorities=np.exp(phi))

    def sample(self, count: int) -> Any:
        """Draw keys; return their indices as handles."""
        return self._replay.sample(count, beta=BETA)["indexes"]

    def update(self, drawn: Any, phi: Floats) -> None:
        """Set the phi of the keys at these indices."""
        self._replay.update_priorities(drawn, np.exp(phi))


class LarsBuffer:
    """Loss-aware reservoir sampling (Buzzega et al. 2020): a uniform reservoir that replaces keys with a low loss first.

    Arrival number t enters with probability capacity / t, as in a plain reservoir. It replaces a key that is drawn with a
    probability proportional to (largest loss of all kept keys) - (loss of the key). Each arrival reads every kept loss.
    """

    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self.keys, self.losses = np.zeros(capacity, np.int64), np.zeros(capacity)
        self._seen = 0

    def offer(self, keys: Keys, phi: Floats) -> None:
        """Add keys, one by one once the buffer is full. phi is used as the loss, whose unit and zero do not matter here."""
        free = min(max(self.keys.size - self._seen, 0), keys.size)
        self.keys[self._seen : self._seen + free], self.losses[self._seen : self._seen + free] = keys[:free], phi[:free]
        self._seen += free
        for key, loss in zip(keys[free:].tolist(), phi[free:].tolist(), strict=True):
            self._seen += 1
            if self._random.integers(self._seen) < self.keys.size:
                slot = self.victim()
                self.keys[slot], self.losses[slot] = key, loss

    def victim(self) -> int:
        """Draw the slot whose key is replaced."""
        score = self.losses.max() - self.losses
        total = float(score.sum())
        return int(self._random.choice(score.size, p=score / total if total else None))

    def sample(self, count: int) -> Keys:
        """Draw slots with equal probability; they are the handles."""
        return self._random.integers(min(self._seen, self.keys.size), size=count)

    def update(self, drawn: Keys, phi: Floats) -> None:
        """Set the losses of the keys in these slots."""
        self.losses[drawn] = phi


@dataclass(frozen=True)
class BufferContender:
    """A buffer to be measured."""

    make: Callable[[int], PrioritisedBuffer]
    needs: str | None = None
    """The package that the buffer needs; empty for one of ours."""
    offered_at_once: int = 256
    """Number of keys in a batch of offers; 1 for a buffer that adds keys one by one and takes long for each."""


CONTENDERS = {
    "ours": BufferContender(OurBuffer),
    "torchrl": BufferContender(TorchRLBuffer, needs="torchrl"),
    "cpprb": BufferContender(CpprbBuffer, needs="cpprb"),
    "lars": BufferContender(LarsBuffer, offered_at_once=1),
}
