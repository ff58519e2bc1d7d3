"""A memory in shards is the same memory in whatever number of them: nothing is lost, twice there, or scored again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_learner import make_pair

from buffer.reservoir import Reservoir
from learner.memory.config import MemoryConfig
from learner.memory.decoding import decode_onto
from learner.memory.memory import Memory
from learner.memory.reshard import resharded

CONFIG = MemoryConfig(capacity=12, fresh_capacity=12, canvas=(8, 8), stalest_share=0.2)
NUMBERS = (1, 2, 3, 4)
ASKED = ("priority", "phi", "score", "age", "inclusion", "record")


def memories(states: Sequence[dict[str, Any]]) -> list[Memory]:
    made = [Memory(CONFIG, seed=1, shard=shard, shards=len(states)) for shard in range(len(states))]
    for memory, state in zip(made, states, strict=True):
        memory.load_state_dict(state, (decode_onto(CONFIG.canvas, make_pair(int(key))) for key in state["keys"]))
    return made


def busy(shards: int, pairs: int, seed: int) -> list[Memory]:
    """Shards that were dealt pairs round robin and trained on them, each with one kept pair in quarantine; some still wait."""
    made = [Memory(CONFIG, seed=1, shard=shard, shards=shards) for shard in range(shards)]
    draw_priority = np.random.default_rng(seed)
    for key in range(pairs):
        memory = made[key % shards]
        memory.add(decode_onto(CONFIG.canvas, make_pair(key)), key)
        if key % 5 == 4:
            draw = memory.draw(3)
            memory.score(draw, draw_priority.random(len(draw.keys)))
    for memory in made:
        draw = memory.draw(memory.fresh + 1)
        memory.refuse(draw, np.arange(len(draw.keys)) >= draw.fresh)
    return made


def facts(memory: Memory) -> dict[int, dict[str, float]]:
    """All that a memory knows of each pair it keeps."""
    state, reservoir = memory.state_dict(), memory.ranking.reservoir
    keys = reservoir.keys()
    record = state["stubborn"]
    records = dict(zip(record["keys"].tolist(), zip(record["lowest"], record["failures"], strict=True), strict=True))
    measured = dict(zip(state["keys"].tolist(), state["priority"].tolist(), strict=True))
    asked = [ask(reservoir, keys) for ask in (Reservoir.phi, Reservoir.scores, Reservoir.ages, Reservoir.inclusion)]
    return {
        key: dict(zip(ASKED, (measured[key], *answers, records[key]), strict=True))
        for key, *answers in zip(keys.tolist(), *asked, strict=True)
    }


def everything(parts: Sequence[Memory]) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for part in parts:
        assert found.keys().isdisjoint(facts(part))
        found |= facts(part)
    return found


@given(
    st.sampled_from(NUMBERS), st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=3), st.integers(4, 40), st.data()
)
@settings(max_examples=30)
def test_another_number_of_shards_holds_the_same_pairs_with_all_that_is_known_of_them(
    shards: int, others: list[int], pairs: int, data: st.DataObject
) -> None:
    before = busy(shards, pairs, data.draw(st.integers(0, 9)))
    known, states = everything(before), [memory.state_dict() for memory in before]
    for number in others:
        states = resharded(states, number)
        assert len(states) == number
    after = memories(states)
    assert everything(after) == known
    held, then = (
        sorted(key for memory in some for key in memory.state_dict()["keys"].tolist()) for some in (after, before)
    )
    assert held == then
    for name in ("dropped_fresh", "quarantined", "fresh"):
        assert sum(getattr(memory, name) for memory in after) == sum(getattr(memory, name) for memory in before)
    assert max(memory.arrived for memory in after) == pairs


@pytest.mark.parametrize("number", [1, 3, 4])
def test_shards_of_another_number_go_on_without_a_pair_in_quarantine(number: int) -> None:
    before = busy(2, 40, 0)
    shunned = {key for memory in before for key in memory.state_dict()["quarantine"].tolist()}
    assert len(shunned) == 2
    after = memories(resharded([memory.state_dict() for memory in before], number))
    for memory in after:
        draw = memory.draw(12)
        assert shunned.isdisjoint(draw.keys.tolist())
        memory.score(draw, np.ones(12))
        assert len(memory.ranking.reservoir) <= 12 // number
    assert sum(memory.fresh for memory in after) == 0


def test_as_many_shards_are_left_as_they_are() -> None:
    states = [memory.state_dict() for memory in busy(2, 20, 0)]
    assert all(now is then for now, then in zip(resharded(states, 2), states, strict=True))


def test_shards_of_different_runs_are_refused() -> None:
    states = [memory.state_dict() for memory in busy(2, 20, 0)]
    with pytest.raises(ValueError, match="all those of one stream"):
        resharded([states[0], states[0]], 1)
