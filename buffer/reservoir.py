"""The reservoir gives each pair one score, and the n largest scores stay.

A pair that arrives as number t draws G ~ Gumbel(0, 1) once; phi is the log-weight that its last known priority gives it:

    score = loss_weight * phi + t * ln 2 / half_life + noise * G

| policy | noise | loss_weight | half_life |
|---|---|---|---|
| uniform | 1 | 0 | inf |
| first in, first out | 0 | 0 | finite |
| greedy | 0 | 1 | inf |
| weighted, with weight exp(loss_weight * phi) (Efraimidis and Spirakis 2006) | 1 | any | inf |
| exponentially decaying | 1 | any | finite |

Newer arrivals get a higher score; the scores of older ones are not lowered (forward decay), so that no score is rewritten while
time passes. Of two equal scores the earlier arrival is the larger one: scores are in total order, and what stays does not depend
on how arrivals fall into batches. A pair that was turned away does not come back, whatever its priority would be later.

Sampling is with replacement and stratified: the distribution is divided into n equal parts, and draw j comes from part j. A pair
with probability p is drawn n * p times on average, exactly, and hardly ever twice where n * p < 1. Sampling schemes without
replacement that keep this expectation are sequential; the simple ones (Gumbel top-k) lose it, and with it the importance weights.

A stream may be split over several reservoirs, the shards (`buffer.sharding`). The arrivals of shard r of m have the numbers
r, r + m, r + 2m, ..., so that no two of them draw the same G.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from buffer.index import KeyIndex
from buffer.scoring import DRAW_STREAM, FIELDS, ITEM, Cuts, Floats, Items, Ranks, Scoring, uniforms
from buffer.trees import MinTree, Slots, SumTree
from buffer.validation import PHI_LIMIT, Settings, is_whole, key_vector, number_vector, require, require_same, rises

_COUNTS = ("arrivals", "number", "draws", "step")


class Offer(NamedTuple):
    """The result of an offer. kept: bool [k], in the order of the offered keys; evicted: int64 [m], keys that left."""

    kept: NDArray[np.bool_]
    evicted: NDArray[np.int64]


class Sample(NamedTuple):
    """Drawn keys, int64 [n], in the order of their slots, and their importance weights, float64 [n]."""

    keys: NDArray[np.int64]
    weights: NDArray[np.float64]


class Reservoir:
    """Keeps the `capacity` best of all keys ever offered. Every bad input raises an error and changes nothing.

    capacity >= 1 keys; loss_weight within [-100, 100], negative prefers low priorities; half_life > 0 in arrivals;
    noise >= 0; uniform_floor, within [0, 1], is the share of sampling that ignores phi; seed within [0, 2**64).
    The reservoir may be number `shard`, from 0, of `shards` <= 1024. The clock of a shard is its own arrivals, `shards` ticks
    each: with a finite half_life, shards of unequal length age unequally.
    It takes at most 97 bytes of memory for each key of the capacity.
    """

    def __init__(
        self,
        capacity: int,
        *,
        loss_weight: float = 1.0,
        half_life: float = math.inf,
        noise: float = 1.0,
        uniform_floor: float = 0.25,
        seed: int,
        shard: int = 0,
        shards: int = 1,
    ) -> None:
        self.settings = Settings(capacity, loss_weight, half_life, noise, uniform_floor, seed, shard, shards)
        self._scoring = Scoring(self.settings)
        self._clear()

    def _clear(self) -> None:
        capacity = self.settings.capacity
        self._length = self._step = 0
        self.arrivals = 0
        """How many keys were ever offered."""
        self._number = self._draws = self.settings.shard  # of the next arrival, and of the next uniform for a sample
        self._index = KeyIndex(capacity)
        self._items = np.zeros(capacity, ITEM)
        self._rank = MinTree(capacity, np.complex128)  # score, then minus the number of the arrival
        self._measured = MinTree(capacity, np.float64)  # the step that gave phi
        self._weight = SumTree(capacity)  # exp(loss_weight * phi)
        self._cuts = Cuts()

    def __len__(self) -> int:
        return self._length

    def __contains__(self, key: object) -> bool:
        fits = is_whole(key, -(1 << 63)) and key < 1 << 63
        return fits and bool(self._index.find(np.array([key], np.int64))[0] >= 0)

    def offer(self, keys: ArrayLike, phi: ArrayLike) -> Offer:
        """Let new keys arrive as if one after another: int64 [k], distinct and not kept now; phi float [k] in [-2, 2].

        The result says which keys are kept and which are evicted after the last of them. Raises ValueError.
        """
        key = self._index.new(key_vector(keys))
        items = self._scoring.arriving(self._number, number_vector(phi, "phi", PHI_LIMIT, key.size))
        ranks = self._scoring.ranks(items)
        kept, leaving = self.compete(key, ranks)
        evicted, staying = self._index.keys(leaving), np.flatnonzero(kept)
        slots = np.append(leaving, np.arange(len(self), len(self) + staying.size - leaving.size))
        self._index.remove(leaving)
        self._enter(slots, key[staying], items.take(staying), ranks[staying])
        self.arrivals += key.size
        self._number += key.size * self.settings.shards
        return Offer(kept, evicted)

    def compete(self, keys: NDArray[np.int64], ranks: Ranks) -> tuple[NDArray[np.bool_], Slots]:
        """Decide which new keys stay and which slots they take over, and return both: bool [k], and the slots.

        The lowest ranks of all keys, old and new, leave. A subclass may have another policy: it must free as many slots as new
        keys stay beyond the capacity.
        """
        kept = np.ones(ranks.size, np.bool_)
        surplus = len(self) + ranks.size - self.settings.capacity
        if surplus <= 0:
            return kept, np.zeros(0, np.int64)
        hopeless = int(np.count_nonzero(ranks < self._rank.root))  # they leave before any kept key does
        rivals = self._rank.smallest(min(max(surplus - hopeless, 0), len(self)))
        ranked = np.concatenate((self._rank[rivals], ranks))
        lowest = np.sort(np.argpartition(ranked, surplus - 1)[:surplus])  # sorted: slots depend only on which stay
        self._cuts.add(self._step, float(ranked[lowest].real.max()))
        kept[lowest[lowest >= rivals.size] - rivals.size] = False
        return kept, rivals[lowest[lowest < rivals.size]]

    def update(self, keys: ArrayLike, phi: ArrayLike) -> None:
        """Replace the phi of kept keys after one training step: int64 [k], phi float [k] in [-2, 2].

        G and the arrival stay. Where a key is repeated, as `sample` may do, its last phi counts. Raises KeyError for a key that
        is not kept (update before the next offer, or leave such keys out: `key in reservoir`), ValueError for a bad phi.
        """
        slots = self.slots(keys)
        value = number_vector(phi, "phi", PHI_LIMIT, slots.size)
        items = self._items.take(slots)
        items["hurdle"] = self._hurdles(slots)
        items["phi"] = value
        self._step += 1
        self._write(slots, items, self._scoring.ranks(items))

    def sample(self, n: int) -> Sample:
        """Draw n >= 1 kept keys, each with probability p = (1 - uniform_floor) * w / sum(w) + uniform_floor / len.

        w = exp(loss_weight * phi). The weights are 1 / (len * p): the weighted mean over draws estimates the plain mean over
        all kept keys. Raises ValueError if nothing is kept.
        """
        require(is_whole(n, 1), "the size of a sample", "a whole number of at least 1", n)
        require(len(self) > 0, "the reservoir", "filled before it is sampled: offer keys first", len(self))
        scale, floor = (1 - self.settings.uniform_floor) / self._weight.root, self.settings.uniform_floor / len(self)
        points = (np.arange(n) + uniforms(self.settings.seed, DRAW_STREAM, self._draws, n, self.settings.shards)) / n
        slots = self._weight.locate(points, scale, floor, len(self))
        self._draws += n * self.settings.shards
        return Sample(self._index.keys(slots), 1 / (len(self) * (scale * self._weight[slots] + floor)))

    def stalest(self, m: int) -> NDArray[np.int64]:
        """Return the min(m, len) keys whose phi was measured longest ago, oldest first: int64.

        With m = ceil(len / R) of them in the batch of every step and updated, no phi is older than R steps.
        """
        require(is_whole(m, 0), "the number of stalest keys", "a whole number of at least 0", m)
        return self._index.keys(self._measured.smallest(min(m, len(self))))

    def keys(self) -> NDArray[np.int64]:
        """Return all kept keys: int64 [len], in the order of their slots."""
        return self._index.keys(np.arange(len(self)))

    def phi(self, keys: ArrayLike) -> Floats:
        """Return the last known phi of kept keys: float64 [k]. Raises KeyError."""
        return np.asarray(self._items.take(self.slots(keys))["phi"])

    def scores(self, keys: ArrayLike) -> Floats:
        """Return the scores of kept keys: float64 [k]. Raises KeyError."""
        return self._scoring.ranks(self._items.take(self.slots(keys))).real.copy()

    def ages(self, keys: ArrayLike) -> NDArray[np.int64]:
        """Return the steps (calls of `update`) since the phi of kept keys was measured: int64 [k]. Raises KeyError."""
        return self._step - self._measured[self.slots(keys)].astype(np.int64)

    def inclusion(self, keys: ArrayLike) -> Floats:
        """Return the probability, over its own G, that a kept key is still here, given all else: float64 [k] in (0, 1].

        The sum of x / inclusion over the kept keys is an unbiased estimate of the sum of x over all arrivals (Horvitz and
        Thompson; the threshold is that of priority sampling, Duffield et al. 2007). Each phi counts for the cuts that were
        made while it held. Without noise all values are 1. Raises KeyError.
        """
        return self._scoring.inclusion(self._hurdles(self.slots(keys)))

    def slots(self, keys: ArrayLike) -> Slots:
        """Return the slots of kept keys: int64 [k]. Raises KeyError."""
        return self._index.known(key_vector(keys))

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on: numpy arrays of [len] or [cuts], whole numbers, and the settings."""
        items = self._items[: len(self)]
        return {
            "settings": asdict(self.settings),
            "arrivals": self.arrivals,
            "number": self._number,
            "draws": self._draws,
            "step": self._step,
            "keys": self.keys(),
            **{name: items[name].copy() for name in FIELDS},
            "measured": self._measured[np.arange(len(self))].astype(np.int64),
            "cut_steps": np.asarray(self._cuts.steps, np.int64),
            "cut_scores": np.asarray(self._cuts.scores, np.float64),
        }

    def state_without_cuts(self) -> dict[str, Any]:
        """Return `state_dict()` in a form that needs no list of cuts: their effect is put into the hurdles of the items."""
        none = {"cut_steps": np.empty(0, np.int64), "cut_scores": np.empty(0, np.float64)}
        return self.state_dict() | none | {"hurdle": self._hurdles(np.arange(len(self)))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. Raises ValueError for another reservoir's settings or a damaged state."""
        _check_state(state, self.state_dict())
        self._clear()
        self.arrivals, self._number, self._draws, self._step = (int(state[name]) for name in _COUNTS)
        self._cuts.steps, self._cuts.scores = state["cut_steps"].tolist(), state["cut_scores"].tolist()
        items = np.zeros(state["keys"].size, ITEM)
        for name in FIELDS:
            items[name] = state[name]
        slots = np.arange(items.size)
        self._enter(slots, state["keys"], items, self._scoring.ranks(items))
        self._measured[slots] = state["measured"]

    def _hurdles(self, slots: Slots) -> Floats:
        return self._scoring.hurdles(self._items.take(slots), self._cuts.since(self._measured[slots]))

    def _enter(self, slots: Slots, keys: Slots, items: Items, ranks: Ranks) -> None:
        """Put new keys into free slots. Beyond the filled slots they leave no gap."""
        self._length = max(self._length, int(slots.max(initial=-1)) + 1)
        self._index.put(slots, keys)
        self._write(slots, items, ranks)

    def _write(self, slots: Slots, items: Items, ranks: Ranks) -> None:
        """Write items that were measured in this step."""
        self._items.put(slots, items)
        self._rank[slots], self._weight[slots] = ranks, self._scoring.weights(items)
        self._measured[slots] = np.full(slots.size, self._step)


def _check_state(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise ValueError with the first condition that `state` does not meet; `own` has the right settings and types."""
    require_same(state, own, "a reservoir's state")
    for name in _COUNTS:
        require(is_whole(state[name], 0), f"the state's {name}", "a whole number of at least 0", state[name])
    for name, array in own.items():
        if isinstance(array, np.ndarray):
            found = state[name]
            is_alike = isinstance(found, np.ndarray) and found.dtype == array.dtype and found.ndim == 1
            require(is_alike, f"the state's {name}", f"a {array.dtype} vector", found)
    _check_values(state)


def _check_values(state: Mapping[str, Any]) -> None:
    keys, length = state["keys"], state["keys"].size
    # A shard that was dealt its part of a whole may be less than full, however many keys had arrived.
    limit = min(state["settings"]["capacity"], state["arrivals"])
    require(length <= limit, "the number of kept keys", f"at most {limit}", length)
    for name in (*FIELDS, "measured"):
        require(state[name].size == length, f"the state's {name}", f"{length} values", state[name].size)
    conditions = {
        "keys distinct": np.unique(keys).size == length,
        f"phi within [-{PHI_LIMIT:g}, {PHI_LIMIT:g}]": np.all(np.abs(state["phi"]) <= PHI_LIMIT),
        "gumbel finite": np.all(np.isfinite(state["gumbel"])),
        "hurdle free of nan": not np.any(np.isnan(state["hurdle"])),
        "arrival below number": np.all(state["arrival"] < state["number"]),
        "measured at most step": np.all(state["measured"] <= state["step"]),
        "cut_steps rising": rises(state["cut_steps"]),
        "cut_scores falling": rises(-state["cut_scores"]),
        "cut_steps and cut_scores equally long": state["cut_steps"].size == state["cut_scores"].size,
    }
    for condition, holds in conditions.items():
        name, _, expected = condition.partition(" ")
        require(bool(holds), f"the state's {name}", expected, "a damaged state")
