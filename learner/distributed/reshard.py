"""The memory of a run in another number of processes: its shards are merged to a whole, and this is dealt out again. Pure.

States are those of `learner.memory.Memory.state_dict`, one for each process. No pair is lost on the way, and none is
scored anew. The loss scale, which is the same in all shards, is that of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffer import sharding
from buffer.reservoir import Reservoir

State = dict[str, Any]


def resharded(states: Sequence[State], shards: int) -> list[State]:
    """The states of `shards` memories that hold together what those of `states` held; the same ones where it is as many."""
    return list(states) if len(states) == shards else split(merged(states), shards)


def merged(states: Sequence[State]) -> State:
    """One memory out of all shards, with the sum of their capacities. Raises ValueError where they are not those of one run."""
    keys, kl, records = (
        np.concatenate([state["keys"] for state in states]),
        np.concatenate([state["kl"] for state in states]),
        [state["stubborn"] for state in states],
    )
    order = np.argsort(keys)
    parts = [_reservoir(state["reservoir"]) for state in states]
    whole = sharding.merged(parts, sum(part.settings.capacity for part in parts))
    return {
        "keys": keys[order],
        "kl": kl[order],
        "fresh": np.sort(np.concatenate([state["fresh"] for state in states])),
        "shunned": np.sort(np.concatenate([state["shunned"] for state in states])),
        "counts": {
            "arrived": max(state["counts"]["arrived"] for state in states),
            **{name: sum(state["counts"][name] for state in states) for name in ("untrained", "quarantined")},
        },
        "reservoir": whole.state_dict(),
        "scale": states[0]["scale"],
        "stubborn": {
            "settings": records[0]["settings"],
            **{name: np.concatenate([record[name] for record in records]) for name in _RECORD},
        },
    }


def split(whole: State, shards: int) -> list[State]:
    """A memory dealt out over `shards`, each of its share of the capacity; what was counted stays with the first."""
    fresh = whole["fresh"]
    reservoirs = sharding.split(_reservoir(whole["reservoir"]), shards)
    return [_share(whole, reservoir, fresh[number::shards]) for number, reservoir in enumerate(reservoirs)]


_RECORD = ("keys", "lowest", "failures")


def _share(whole: State, reservoir: Reservoir, fresh: NDArray[np.int64]) -> State:
    mine = np.isin(whole["keys"], np.concatenate([reservoir.keys(), fresh]))
    record = whole["stubborn"]
    recorded = np.isin(record["keys"], reservoir.keys())
    is_first = reservoir.settings.shard == 0
    return {
        "keys": whole["keys"][mine],
        "kl": whole["kl"][mine],
        "fresh": fresh,
        "shunned": whole["shunned"][np.isin(whole["shunned"], reservoir.keys())],
        "counts": {name: count if is_first or name == "arrived" else 0 for name, count in whole["counts"].items()},
        "reservoir": reservoir.state_dict(),
        "scale": whole["scale"],
        "stubborn": {"settings": record["settings"], **{name: record[name][recorded] for name in _RECORD}},
    }


def _reservoir(state: State) -> Reservoir:
    reservoir = Reservoir(**state["settings"])
    reservoir.load_state_dict(state)
    return reservoir
