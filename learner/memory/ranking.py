"""Which trained clips stay and which are drawn: priorities become phi, and the reservoir keeps the largest scores.

The key of a clip is that of its first pair; a clip of one pair is that pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffer.index import Keys
from buffer.priority import PriorityScale, Stubbornness
from buffer.reservoir import Reservoir
from buffer.validation import PHI_LIMIT
from learner.memory.config import MemoryConfig

Floats = NDArray[np.float64]
Pool = Callable[[Floats], Floats]


def reservoir_for(config: MemoryConfig, *, seed: int, shard: int = 0, shards: int = 1) -> Reservoir:
    """Return the reservoir of one of `shards` processes, with its part of the clips; its arrivals are clips too."""
    numbers = config.numbers
    return Reservoir(
        config.clips // shards,
        **asdict(replace(numbers, half_life=numbers.half_life / config.clip)),
        seed=seed,
        shard=shard,
        shards=shards,
    )


class Ranking:
    """The reservoir with its priorities, and the kept clips in quarantine, which are never drawn again.

    pool: returns the values of all shards, in their order, for the values of this one; None if there is one shard. All
    shards score in step, and standardise their priorities against the distribution of all.
    """

    def __init__(self, reservoir: Reservoir, *, pool: Pool | None = None) -> None:
        self.reservoir = reservoir
        self.scale = PriorityScale()
        self.stubborn = Stubbornness()
        self.quarantine: set[int] = set()  # the reservoir has no deletion, so they stay until others take their slots
        self._pool = pool

    def draw(self, count: int, stalest: int) -> Keys:
        """Draw `count` kept clips, `stalest` of them the ones scored longest ago: int64 [count], or [0] if there is none.

        None is in quarantine: the clips scored longest ago are drawn instead of those.
        """
        quarantined = np.fromiter(self.quarantine, np.int64, len(self.quarantine))
        oldest = self.reservoir.stalest(count + len(quarantined))
        oldest = oldest[~np.isin(oldest, quarantined)]
        if not len(oldest):
            return np.empty(0, np.int64)
        keys = oldest[:stalest]
        if count > len(keys):
            sampled = self.reservoir.sample(count - len(keys)).keys
            refused = np.isin(sampled, quarantined)
            sampled[refused] = np.resize(oldest, np.count_nonzero(refused))
            keys = np.concatenate([keys, sampled])
        return keys

    def score(self, keys: Keys, priority: Floats, is_fresh: NDArray[np.bool_]) -> Keys:
        """Score distinct trained clips, all [k], and offer the fresh ones to the reservoir. Returns the keys that leave."""
        self.scale.observe(self._pool(priority) if self._pool else priority)
        phi = self.stubborn.damped(keys, priority, self.scale.phi(priority))
        known = keys[~is_fresh]
        aged = self.scale.aged(self.reservoir.phi(known), self.reservoir.ages(known))
        self.reservoir.update(known, (phi[~is_fresh] + aged) / 2)  # the mean with the last phi, because crops are noisy
        offer = self.reservoir.offer(keys[is_fresh], phi[is_fresh])
        gone = np.concatenate([keys[is_fresh][~offer.kept], offer.evicted])
        self.stubborn.forget(gone)
        self.quarantine.difference_update(gone.tolist())
        return gone

    def put_in_quarantine(self, keys: Iterable[int]) -> None:
        """Never draw these kept clips again, and let them leave as soon as others come."""
        kept = np.array(sorted(keys), np.int64)
        self.reservoir.update(kept, np.full(len(kept), -PHI_LIMIT))
        self.quarantine.update(kept.tolist())

    def stalest_steps(self) -> int:
        """Return the age in steps of the oldest score in memory, 0 while there is none."""
        return int(self.reservoir.ages(self.reservoir.stalest(1)).max(initial=0))

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {
            "quarantine": np.array(sorted(self.quarantine), np.int64),
            "reservoir": self.reservoir.state_dict(),
            "scale": self.scale.state_dict(),
            "stubborn": self.stubborn.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. Raises ValueError for other settings or a damaged state."""
        self.reservoir.load_state_dict(state["reservoir"])
        self.scale.load_state_dict(state["scale"])
        self.stubborn.load_state_dict(state["stubborn"])
        self.quarantine = set(state["quarantine"].tolist())
