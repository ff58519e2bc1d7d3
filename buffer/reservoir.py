"""The reservoir: one score for each pair, and the n largest stay.

A pair that arrives as number t draws G ~ Gumbel(0, 1) once; phi is the log-weight its last known loss gives it:

    score = loss_weight * phi + t * ln 2 / half_life + noise * G

noise 1, loss_weight 0, half_life inf is the uniform reservoir; noise 0, loss_weight 0, half_life finite is first in,
first out; noise 0, loss_weight 1, half_life inf is greedy by loss; noise 1, half_life inf is the weighted reservoir of
Efraimidis and Spirakis (2006) with weight exp(loss_weight * phi); with a finite half_life it decays exponentially.
Time adds to new scores instead of taking from old ones (forward decay), so nothing is rewritten as it passes. Of two
equal scores the earlier arrival is the larger: the scores are in total order, and what stays does not depend on how
arrivals fall into batches. What was turned away does not come back, whatever its loss would be today.

Sampling is with replacement, stratified: draw j of n is made from the j-th n-th of the distribution, so that a pair
is drawn n * p times in the mean, exactly, and hardly ever twice where n * p < 1. Schemes without replacement that
keep this expectation are sequential; those that are simple (Gumbel top-k) lose it, and with it the importance weights.

A stream may be split over several reservoirs, the shards, and these be merged: the largest scores of the parts are the
largest of all. For this the arrivals of shard r of m bear the numbers r, r + m, r + 2m and so on: no two draw the same G.
One reservoir may be split into shards in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from buffer.border import PHI_LIMIT, Settings, is_whole, key_vector, number_vector, require, rises
from buffer.index import KeyIndex
from buffer.scores import Cuts, Floats, MinTree, Slots, SumTree, uniforms

_ARRIVAL, _DRAW = 0, 1  # the two rows of random numbers
_FIELDS = {"phi": np.float64, "gumbel": np.float64, "hurdle": np.float64, "arrival": np.int64}
"""What a slot holds beside its key and its places in the trees: read together, so they lie together."""
_ITEM = np.dtype(list(_FIELDS.items()))
_COUNTS = ("arrivals", "number", "draws", "step")
Items = NDArray[np.void]


class Offer(NamedTuple):
    """What became of offered keys: kept is bool [k] in their order; evicted, int64 [m], were here before and left."""

    kept: NDArray[np.bool_]
    evicted: NDArray[np.int64]


class Sample(NamedTuple):
    """Drawn keys, int64 [n] in the order of their slots, and the weights, float64 [n], that lead back to uniform."""

    keys: NDArray[np.int64]
    weights: NDArray[np.float64]


class Reservoir:
    """Keeps the `capacity` best of all keys ever offered. Every bad input raises and leaves the state as it was.

    capacity >= 1 keys; loss_weight within [-100, 100], negative prefers low losses; half_life > 0 in arrivals;
    noise >= 0; uniform_floor, within [0, 1], is the share of sampling that ignores the loss; seed within [0, 2**64).
    It may be one of `shards` reservoirs, at most 1024, over parts of one stream: number `shard`, from 0. A shard's clock is
    its own arrivals, `shards` ticks each: with a finite half_life, shards of unequal length age unequally.
    Memory: at most 97 bytes for each key of the capacity.
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
        self._clear()

    def _clear(self) -> None:
        capacity = self.settings.capacity
        self._length = self._arrivals = self._step = 0
        self._number = self._draws = self.settings.shard  # of the next arrival, and of the next uniform for a sample
        self._index = KeyIndex(capacity)
        self._items = np.zeros(capacity, _ITEM)
        self._rank = MinTree(capacity, np.complex128)  # score, then minus the number of the arrival
        self._measured = MinTree(capacity, np.float64)  # the step that gave phi
        self._weight = SumTree(capacity)  # exp(loss_weight * phi)
        self._cuts = Cuts()

    def __len__(self) -> int:
        return self._length

    def __contains__(self, key: object) -> bool:
        fits = is_whole(key, -(1 << 63)) and key < 1 << 63
        return fits and bool(self._index.find(np.array([key], np.int64))[0] >= 0)

    @property
    def arrivals(self) -> int:
        """How many keys were ever offered."""
        return self._arrivals

    def offer(self, keys: ArrayLike, phi: ArrayLike) -> Offer:
        """Take in new keys as if one after another: int64 [k], distinct and not kept now; phi float [k] in [-2, 2].

        A key is kept, or evicted, as it stands after the last of them. Raises ValueError.
        """
        key = self._new_keys(keys)
        value = number_vector(phi, "phi", PHI_LIMIT, key.size)
        items = self._arriving(value)
        ranks = self._ranks(items)
        kept, leaving = self._compete(ranks)
        evicted, staying = self._index.keys(leaving), np.flatnonzero(kept)
        slots = np.append(leaving, np.arange(len(self), len(self) + staying.size - leaving.size))
        self._index.remove(leaving)
        self._enter(slots, key[staying], items.take(staying), ranks[staying])
        self._arrivals += key.size
        self._number += key.size * self.settings.shards
        return Offer(kept, evicted)

    def could_enter(self, count: int = 1) -> NDArray[np.bool_]:
        """Whether each of the next `count` arrivals could be kept if its loss were the best possible: bool [count].

        Exact early rejection: where this says False, offer the key with phi 0, neither decoded nor scored. It is
        refused as it would be with any phi, and nothing that is kept depends on it. (Only `inclusion` of keys measured
        after the last scored refusal takes the score at phi 0 for that of the refused, until the next larger one.)
        """
        require(is_whole(count, 0), "the number of arrivals", "a whole number of at least 0", count)
        if len(self) < self.settings.capacity:
            return np.ones(count, np.bool_)
        best = np.full(count, math.copysign(PHI_LIMIT, self.settings.loss_weight))
        score = self._ranks(self._arriving(best)).real
        # Below the last cut too: an unscored refusal must not become the threshold of `inclusion`.
        enters: NDArray[np.bool_] = score > min(self._rank.root.real, self._cuts.latest)
        return enters

    def update(self, keys: ArrayLike, phi: ArrayLike) -> None:
        """One training step measured these kept keys anew: int64 [k], phi float [k] in [-2, 2].

        G and the arrival stay as they were. Where a key is repeated, as `sample` may, the last phi counts. Keys
        evicted since they were drawn are unknown: update before the next offer, or leave them out (`key in
        reservoir`). Raises KeyError for a key that is not kept, ValueError for a bad phi.
        """
        slots = self._slots(keys)
        value = number_vector(phi, "phi", PHI_LIMIT, slots.size)
        items = self._items.take(slots)
        items["hurdle"] = self._hurdles(items, self._measured[slots])
        items["phi"] = value
        self._step += 1
        self._write(slots, items, self._ranks(items))

    def sample(self, n: int) -> Sample:
        """Draw n >= 1 kept keys, each with probability p = (1 - uniform_floor) * w / sum(w) + uniform_floor / len.

        w = exp(loss_weight * phi). The weights are 1 / (len * p): with them the mean over draws estimates the plain
        mean over what is kept. Raises ValueError where nothing is kept.
        """
        require(is_whole(n, 1), "the size of a sample", "a whole number of at least 1", n)
        require(len(self) > 0, "the reservoir", "filled before it is sampled: offer keys first", len(self))
        scale, floor = (1 - self.settings.uniform_floor) / self._weight.root, self.settings.uniform_floor / len(self)
        points = (np.arange(n) + uniforms(self.settings.seed, _DRAW, self._draws, n, self.settings.shards)) / n
        slots = self._weight.locate(points, scale, floor, len(self))
        self._draws += n * self.settings.shards
        return Sample(self._index.keys(slots), 1 / (len(self) * (scale * self._weight[slots] + floor)))

    def stalest(self, m: int) -> NDArray[np.int64]:
        """The min(m, len) keys whose phi was measured longest ago, oldest first: int64.

        With m = ceil(len / R) of them in the batch of every step and updated, no phi is older than R steps.
        """
        require(is_whole(m, 0), "the number of stalest keys", "a whole number of at least 0", m)
        return self._index.keys(self._measured.smallest(min(m, len(self))))

    def keys(self) -> NDArray[np.int64]:
        """All kept keys: int64 [len], in the order of their slots."""
        return self._index.keys(np.arange(len(self)))

    def phi(self, keys: ArrayLike) -> Floats:
        """The last known phi of kept keys: float64 [k]. Raises KeyError."""
        return np.asarray(self._items.take(self._slots(keys))["phi"])

    def scores(self, keys: ArrayLike) -> Floats:
        """The scores of kept keys: float64 [k]. Raises KeyError."""
        return self._ranks(self._items.take(self._slots(keys))).real.copy()

    def ages(self, keys: ArrayLike) -> NDArray[np.int64]:
        """Steps (calls of `update`) since the phi of kept keys was measured: int64 [k]. Raises KeyError."""
        return self._step - self._measured[self._slots(keys)].astype(np.int64)

    def inclusion(self, keys: ArrayLike) -> Floats:
        """The probability that a kept key is still here, over its own G and all else given: float64 [k] in (0, 1].

        The sum of x / inclusion over what is kept is an unbiased estimate of the sum of x over all arrivals (Horvitz
        and Thompson; the threshold is that of priority sampling, Duffield et al. 2007). Updates are followed: each phi
        answers for the cuts made while it held. Without noise there is no chance in it: all ones. Raises KeyError.
        """
        slots = self._slots(keys)
        hurdles = self._hurdles(self._items.take(slots), self._measured[slots])
        if self.settings.noise == 0:
            return np.ones(hurdles.size)
        with np.errstate(over="ignore"):  # an exponent of any size is a probability of one
            return -np.expm1(-np.exp(-hurdles / self.settings.noise))

    @classmethod
    def merged(cls, shards: Sequence[Reservoir], capacity: int | None = None) -> Reservoir:
        """One reservoir out of all shards of a stream, in any order: of what they keep, the `capacity` largest scores.

        capacity: None is that of one shard; the sum of all theirs keeps everything. With that of one shard, and where no phi
        was updated on the way, it equals, exactly, one reservoir that was offered the arrivals in the order of their
        numbers: the same keys, scores and inclusion, and the same G for arrivals to come; only the slots, and with them
        what a sample draws, differ. After updates the one would have evicted keys that a shard still held and may have
        raised; `inclusion` answers for what happened here. Where the shards are unequally long, some numbers belong to no
        arrival. Raises ValueError for a shard that is missing, given twice, or of other settings, and for a
        key in two of them; leaves the shards as they are.
        """
        require(len(shards) > 0, "shards", "at least one", len(shards))
        settings = shards[0].settings
        alike = all(replace(part.settings, shard=settings.shard) == settings for part in shards)
        complete = sorted(part.settings.shard for part in shards) == list(range(settings.shards))
        found = [f"{part.settings.shard} of {part.settings.shards}" for part in shards]
        require(alike and complete, "shards", "all those of one stream, with the same settings", ", ".join(found))
        keys = np.concatenate([part.keys() for part in shards])
        require(np.unique(keys).size == keys.size, "keys of different shards", "different", "some in two of them")
        whole_capacity = settings.capacity if capacity is None else capacity
        whole = cls(**{**asdict(settings), "capacity": whole_capacity, "shard": 0, "shards": 1})
        whole._take_over(shards, keys)
        return whole

    def _take_over(self, shards: Sequence[Reservoir], keys: Slots) -> None:
        """Of an empty one: keep the best keys of the shards, which are given in their order."""
        self._step = max(part._step for part in shards)
        self._arrivals = sum(part._arrivals for part in shards)
        self._number = max(part._number - len(shards) + 1 for part in shards)
        self._draws = max(part._draws - len(shards) + 1 for part in shards)
        items = np.concatenate([part._settled() for part in shards])
        measured = np.concatenate([part._measured[np.arange(len(part))] + (self._step - part._step) for part in shards])
        ranks = self._ranks(items)
        staying = np.flatnonzero(self._compete(ranks)[0])
        slots = np.arange(staying.size)
        self._enter(slots, keys[staying], items.take(staying), ranks[staying])
        self._measured[slots] = measured[staying]

    def split(self, shards: int) -> list[Reservoir]:
        """Deal what is kept over the shards of one stream, each of its share of the capacity; leaves this one as it is.

        In the rising order of their keys, one to each in turn: none has more than it holds. Scores, inclusion and the G of
        the arrivals to come are as they were, so that `merged`, with this capacity, gives it back but for the slots. Raises
        ValueError where this is a shard itself, or its capacity is no multiple of `shards`.
        """
        require(self.settings.shards == 1, "a reservoir that is split", "no shard itself", self.settings)
        divides = is_whole(shards, 1) and self.settings.capacity % shards == 0
        require(divides, "shards", f"a divisor of the capacity {self.settings.capacity}", shards)
        capacity = self.settings.capacity // shards
        parts = [
            Reservoir(**{**asdict(self.settings), "capacity": capacity, "shard": shard, "shards": shards})
            for shard in range(shards)
        ]
        order = np.argsort(self.keys())
        for shard, part in enumerate(parts):
            part._take_share(self, order[shard::shards])
        parts[0]._arrivals += self._arrivals - len(self)
        return parts

    def _take_share(self, whole: Reservoir, chosen: Slots) -> None:
        """Of an empty shard: keep what lies in these slots of the whole, and go on with its numbers."""
        shard, shards = self.settings.shard, self.settings.shards
        self._step, self._arrivals = whole._step, chosen.size
        self._number = whole._number + (shard - whole._number) % shards
        self._draws = whole._draws + (shard - whole._draws) % shards
        items, slots = whole._settled().take(chosen), np.arange(chosen.size)
        self._enter(slots, whole._index.keys(chosen), items, self._ranks(items))
        self._measured[slots] = whole._measured[chosen]

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on: numpy arrays of [len] or [cuts], whole numbers, and the settings."""
        items = self._items[: len(self)]
        return {
            "settings": asdict(self.settings),
            "arrivals": self._arrivals,
            "number": self._number,
            "draws": self._draws,
            "step": self._step,
            "keys": self.keys(),
            **{name: items[name].copy() for name in _FIELDS},
            "measured": self._measured[np.arange(len(self))].astype(np.int64),
            "cut_steps": np.asarray(self._cuts.steps, np.int64),
            "cut_scores": np.asarray(self._cuts.scores, np.float64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what `state_dict` described. Raises ValueError where it was made with other settings or is damaged."""
        self._check_state(state)
        self._clear()
        counts = (int(state[name]) for name in _COUNTS)
        self._arrivals, self._number, self._draws, self._step = counts
        self._cuts.steps, self._cuts.scores = state["cut_steps"].tolist(), state["cut_scores"].tolist()
        items = np.zeros(state["keys"].size, _ITEM)
        for name in _FIELDS:
            items[name] = state[name]
        slots = np.arange(items.size)
        self._enter(slots, state["keys"], items, self._ranks(items))
        self._measured[slots] = state["measured"]

    def _check_state(self, state: Mapping[str, Any]) -> None:
        own = self.state_dict()
        require(state.keys() == own.keys(), "a reservoir's state", f"made of {', '.join(own)}", ", ".join(state))
        require(state["settings"] == own["settings"], "the state's settings", f"{own['settings']}", state["settings"])
        sound = all(is_whole(state[name], 0) for name in _COUNTS)
        for name, array in own.items():
            if isinstance(array, np.ndarray):
                found = state[name]
                sound &= isinstance(found, np.ndarray) and found.dtype == array.dtype and found.ndim == 1
                require(sound, f"the state's {name}", f"a {array.dtype} vector beside whole counts", found)
        rows = [state[name] for name in ("keys", "phi", "gumbel", "hurdle", "arrival", "measured")]
        length = rows[0].size
        # A shard that was dealt its share may be less than full, however many had arrived.
        sound = length <= min(self.settings.capacity, state["arrivals"]) and all(row.size == length for row in rows)
        sound = sound and bool(np.all(rows[4] < state["number"]) and np.all(rows[5] <= state["step"]))
        sound = sound and np.unique(rows[0]).size == length and bool(np.all(np.abs(rows[1]) <= PHI_LIMIT))
        sound = sound and bool(np.all(np.isfinite(rows[2]))) and not bool(np.any(np.isnan(rows[3])))
        sound = sound and rises(state["cut_steps"]) and rises(-state["cut_scores"])
        sound = sound and state["cut_steps"].size == state["cut_scores"].size
        require(sound, "the state's arrays", "as state_dict() made them", f"damaged ones of {length} keys")

    def _arriving(self, phi: Floats) -> Items:
        """The next arrivals, with these phi; looking ahead changes nothing."""
        items, shards = np.empty(phi.size, _ITEM), self.settings.shards
        items["phi"], items["hurdle"] = phi, -np.inf
        items["gumbel"] = -np.log(-np.log(uniforms(self.settings.seed, _ARRIVAL, self._number, phi.size, shards)))
        items["arrival"] = self._number + shards * np.arange(phi.size)
        return items

    def _settled(self) -> Items:
        """All items in the order of their slots; their hurdles know all cuts so far."""
        items = self._items[: len(self)].copy()
        items["hurdle"] = self._hurdles(items, self._measured[np.arange(len(self))])
        return items

    def _drift(self, items: Items) -> Floats:
        """The score without its noise."""
        growth = math.log(2) / self.settings.half_life
        drift: Floats = self.settings.loss_weight * items["phi"] + growth * items["arrival"]
        return drift

    def _ranks(self, items: Items) -> NDArray[np.complex128]:
        ranks = np.empty(items.size, np.complex128)
        ranks.real, ranks.imag = self._drift(items) + self.settings.noise * items["gumbel"], -items["arrival"]
        return ranks

    def _hurdles(self, items: Items, measured: Floats) -> Floats:
        """What noise * G of each item had to exceed to be here: the largest cut less the score without noise."""
        hurdles: Floats = np.maximum(items["hurdle"], self._cuts.since(measured) - self._drift(items))
        return hurdles

    def _enter(self, slots: Slots, keys: Slots, items: Items, ranks: NDArray[np.complex128]) -> None:
        """Put new keys into free slots; beyond those that are filled, without a gap."""
        self._length = max(self._length, int(slots.max(initial=-1)) + 1)
        self._index.put(slots, keys)
        self._write(slots, items, ranks)

    def _write(self, slots: Slots, items: Items, ranks: NDArray[np.complex128]) -> None:
        """Items that were measured in this step."""
        self._items.put(slots, items)
        self._rank[slots], self._weight[slots] = ranks, np.exp(self.settings.loss_weight * items["phi"])
        self._measured[slots] = np.full(slots.size, self._step)

    def _compete(self, ranks: NDArray[np.complex128]) -> tuple[NDArray[np.bool_], Slots]:
        """Which newcomers stay, bool [k], and which slots they take from others: the lowest of both together go."""
        kept = np.ones(ranks.size, np.bool_)
        surplus = len(self) + ranks.size - self.settings.capacity
        if surplus <= 0:
            return kept, np.zeros(0, np.int64)
        hopeless = int(np.count_nonzero(ranks < self._rank.root))  # they go before any kept one does
        rivals = self._rank.smallest(min(max(surplus - hopeless, 0), len(self)))
        ranked = np.concatenate((self._rank[rivals], ranks))
        lowest = np.sort(np.argpartition(ranked, surplus - 1)[:surplus])  # sorted: slots depend on what stays only
        self._cuts.add(self._step, float(ranked[lowest].real.max()))
        kept[lowest[lowest >= rivals.size] - rivals.size] = False
        return kept, rivals[lowest[lowest < rivals.size]]

    def _new_keys(self, keys: ArrayLike) -> Slots:
        new = key_vector(keys)
        ordered = np.sort(new)
        require(bool(np.all(ordered[1:] != ordered[:-1])), "offered keys", "distinct", new[:8].tolist())
        known = new[self._index.find(new) >= 0]
        require(known.size == 0, "offered keys", "new", f"{known[:8].tolist()}, which are kept already")
        return new

    def _slots(self, keys: ArrayLike) -> Slots:
        wanted = key_vector(keys)
        slots = self._index.find(wanted)
        unknown = wanted[slots < 0]
        if unknown.size:
            raise KeyError(
                f"{unknown.size} keys are not in the reservoir, such as {unknown[:8].tolist()}: leave out what was evicted"
            )
        return slots
