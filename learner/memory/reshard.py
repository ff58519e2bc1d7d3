"""The memory of a run in another number of processes: its shards are merged, and the whole is dealt out again. Pure.

States are those of `Memory.state_dict`, one for each process. No pair is lost, none is scored again, and no clip is divided. All
shards have the same priority scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from buffer import sharding
from buffer.reservoir import Reservoir

State = dict[str, Any]
_RECORD = ("keys", "lowest", "failures")


def resharded(states: Sequence[State], shards: int) -> list[State]:
    """Return the states of `shards` memories that hold the same pairs together; for as many shards, the same states."""
    return list(states) if len(states) == shards else split(merged(states), shards)


def merged(states: Sequence[State]) -> State:
    """Merge all shards into one memory with the sum of their capacities. Raises ValueError for shards of different runs."""
    keys, priority = (np.concatenate([state[name] for state in states]) for name in ("keys", "priority"))
    order, records = np.argsort(keys), [state["stubborn"] for state in states]
    parts = [_reservoir(state["reservoir"]) for state in states]
    whole = sharding.merged(parts, sum(part.settings.capacity for part in parts))
    measured: dict[str, int] = {}
    for state in reversed(states):
        measured |= state.get("signals", {})
    return {
        **({"signals": measured} if "signals" in states[0] else {}),
        "keys": keys[order],
        "priority": priority[order],
        "clips": np.concatenate([clips_of(state) for state in states])[order],
        "fresh": np.sort(np.concatenate([state["fresh"] for state in states])),
        "quarantine": np.sort(np.concatenate([state["quarantine"] for state in states])),
        "counts": {
            "arrived": max(state["counts"]["arrived"] for state in states),
            **{name: sum(state["counts"][name] for state in states) for name in ("dropped_fresh", "quarantined")},
        },
        "reservoir": whole.state_dict(),
        "scale": states[0]["scale"],
        "stubborn": {
            "settings": records[0]["settings"],
            **{name: np.concatenate([record[name] for record in records]) for name in _RECORD},
        },
    }


def split(whole: State, shards: int) -> list[State]:
    """Deal a memory out over `shards`, each with its part of the capacity; the counts stay with the first.

    Each fresh clip goes where the fewest fresh pairs are.
    """
    lengths = dict(zip(*(found.tolist() for found in np.unique(clips_of(whole), return_counts=True)), strict=True))
    fresh: list[list[int]] = [[] for _ in range(shards)]
    loads = [0] * shards
    for clip in whole["fresh"].tolist():
        number = loads.index(min(loads))
        fresh[number].append(clip)
        loads[number] += lengths[clip]
    reservoirs = sharding.split(_reservoir(whole["reservoir"]), shards)
    return [_part(whole, *one) for one in zip(reservoirs, map(_vector, fresh), strict=True)]


def clips_of(state: State) -> NDArray[np.int64]:
    """Return the clip of each pair of a state, which in one of single pairs is the pair itself."""
    found: NDArray[np.int64] = state["clips"] if "clips" in state else state["keys"]
    return found


def pieces(whole: State, length: int) -> NDArray[np.int64]:
    """Return the clip of each pair of a memory after longer ones were cut into pieces of `length` pairs."""
    clips, order = clips_of(whole), np.argsort(clips_of(whole), kind="stable")
    place = np.arange(len(order)) - np.searchsorted(clips[order], clips[order])
    cut = np.empty_like(clips)
    cut[order] = whole["keys"][order][np.arange(len(order)) - place % length]
    return cut


def _vector(keys: list[int]) -> NDArray[np.int64]:
    return np.array(keys, np.int64)


def _part(whole: State, reservoir: Reservoir, fresh: NDArray[np.int64]) -> State:
    clips = clips_of(whole)
    mine = np.isin(clips, np.concatenate([reservoir.keys(), fresh]))
    record = whole["stubborn"]
    recorded = np.isin(record["keys"], reservoir.keys())
    is_first = reservoir.settings.shard == 0
    measured = {"signals": dict(whole["signals"])} if "signals" in whole else {}
    return {
        **measured,
        "keys": whole["keys"][mine],
        "priority": whole["priority"][mine],
        "clips": clips[mine],
        "fresh": fresh,
        "quarantine": whole["quarantine"][np.isin(whole["quarantine"], reservoir.keys())],
        "counts": {name: count if is_first or name == "arrived" else 0 for name, count in whole["counts"].items()},
        "reservoir": reservoir.state_dict(),
        "scale": whole["scale"],
        "stubborn": {"settings": record["settings"], **{name: record[name][recorded] for name in _RECORD}},
    }


def _reservoir(state: State) -> Reservoir:
    reservoir = Reservoir(**state["settings"])
    reservoir.load_state_dict(state)
    return reservoir
