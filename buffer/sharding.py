"""Merge the reservoirs of all shards of a stream into one, and split one into shards.

The largest scores of the parts are the largest of all, so that merging is exact. Both functions work on states and leave the
reservoirs that they are given as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffer.reservoir import Reservoir
from buffer.scoring import FIELDS, Scoring
from buffer.validation import is_whole, require

_ROWS = ("keys", *FIELDS, "measured")


def merged(shards: Sequence[Reservoir], capacity: int | None = None) -> Reservoir:
    """Merge all shards of a stream, in any order, into one reservoir: the `capacity` largest scores of all kept keys stay.

    capacity: None takes that of one shard; the sum of all capacities keeps every key. If it is that of one shard and no phi was
    updated before, the result equals exactly one reservoir that was offered the arrivals in the order of their numbers: the same
    keys, scores and inclusion, and the same G for later arrivals. Only the slots differ, and with them the keys of a sample.
    After updates a shard may have kept, and raised, keys that one reservoir would have evicted; `inclusion` accounts for that. If
    the shards are unequally long, some numbers belong to no arrival. Raises ValueError for a shard that is missing, given twice,
    or of other settings, and for a key in two of them.
    """
    _check_complete(shards)
    states = [shard.state_without_cuts() for shard in shards]
    step = max(state["step"] for state in states)
    rows = {name: np.concatenate([state[name] for state in states]) for name in _ROWS}
    rows["measured"] = np.concatenate([state["measured"] + (step - state["step"]) for state in states])
    distinct = np.unique(rows["keys"]).size == rows["keys"].size
    require(distinct, "keys of different shards", "different", "some in two of them")
    settings = replace(shards[0].settings, shard=0, shards=1)
    whole = Reservoir(**asdict(settings if capacity is None else replace(settings, capacity=capacity)))
    stays, cuts = _best(rows, whole)
    whole.load_state_dict(
        whole.state_dict()
        | {"step": step, "arrivals": sum(state["arrivals"] for state in states)}
        | {name: max(state[name] - len(shards) + 1 for state in states) for name in ("number", "draws")}
        | {name: values[stays] for name, values in rows.items()}
        | {"cut_steps": np.full(cuts.size, step), "cut_scores": cuts}
    )
    return whole


def split(whole: Reservoir, shards: int) -> list[Reservoir]:
    """Deal the kept keys to the shards of one stream, each of its part of the capacity.

    The keys go to the shards in turn, in rising order, so that none gets more than it can hold. Scores, inclusion and the G of
    the arrivals to come do not change: `merged` with this capacity gives the same reservoir, except for the slots. Raises
    ValueError if `whole` is a shard itself, or its capacity is no multiple of `shards`.
    """
    settings = whole.settings
    require(settings.shards == 1, "a reservoir that is split", "no shard itself", settings)
    divides = is_whole(shards, 1) and settings.capacity % shards == 0
    require(divides, "shards", f"a divisor of the capacity {settings.capacity}", shards)
    state, order = whole.state_without_cuts(), np.argsort(whole.keys())
    parts = []
    for shard in range(shards):
        own = asdict(replace(settings, capacity=settings.capacity // shards, shard=shard, shards=shards))
        chosen = order[shard::shards]
        arrivals = chosen.size + (whole.arrivals - len(whole) if shard == 0 else 0)
        part = Reservoir(**own)
        part.load_state_dict(
            state
            | {"settings": own, "arrivals": arrivals}
            | {name: state[name] + (shard - state[name]) % shards for name in ("number", "draws")}
            | {name: state[name][chosen] for name in _ROWS}
        )
        parts.append(part)
    return parts


def _check_complete(shards: Sequence[Reservoir]) -> None:
    require(len(shards) > 0, "shards", "at least one", len(shards))
    settings = shards[0].settings
    alike = all(replace(part.settings, shard=settings.shard) == settings for part in shards)
    complete = sorted(part.settings.shard for part in shards) == list(range(settings.shards))
    found = [f"{part.settings.shard} of {part.settings.shards}" for part in shards]
    require(alike and complete, "shards", "all those of one stream, with the same settings", ", ".join(found))


def _best(rows: dict[str, NDArray[Any]], whole: Reservoir) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which rows fit into the whole, and the largest score that does not, in a vector of one or none."""
    count = rows["keys"].size
    ranks, stays = Scoring(whole.settings).ranks(rows), np.ones(count, np.bool_)
    surplus = count - whole.settings.capacity
    if surplus <= 0:
        return stays, np.empty(0)
    leaving = np.argpartition(ranks, surplus - 1)[:surplus]
    stays[leaving] = False
    return stays, ranks[leaving].real.max(keepdims=True)
