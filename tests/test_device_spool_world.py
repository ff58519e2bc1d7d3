"""The spool's rules against everything that can happen to a rig, its disk and its consumers, in any order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.faults.spool_world import ACTIONS, CALM, World, play
from benchmarks.shared.simulated_rig import LIMITS


def scripts(actions: tuple[str, ...]) -> st.SearchStrategy[list[tuple[str, int]]]:
    return st.lists(st.tuples(st.sampled_from(actions), st.integers(0, 60)), max_size=40)


@given(script=scripts(ACTIONS), keys=st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_kept_pair_is_entered_or_counted_by_every_consumer_with_a_cursor(
    script: list[tuple[str, int]], keys: bool
) -> None:
    world = World(keys=keys)
    for action, number in script:
        world.act(action, number)
    world.check()


@given(script=scripts(CALM), stranger=st.booleans())
@settings(max_examples=100, deadline=None)
def test_restarts_clocks_and_strangers_cost_no_pair_while_there_is_room(
    script: list[tuple[str, int]], stranger: bool
) -> None:
    world = World(keys=True, limits=replace(LIMITS, max_bytes=1 << 30))
    for number in (0, 1):
        for action in ("append", "meet", "commit"):
            world.act(action, number)
    for action, number in script:
        world.act(action, number)
        if stranger:
            world.act("acknowledge_for_another", number)
    world.check()
    assert world.lost() == 0


@pytest.mark.parametrize("keys", [False, True])
def test_by_chance_nothing_is_silent_in_two_thousand_faults(keys: bool) -> None:
    done = play(1, 2000, keys=keys)
    assert done.keys() == set(ACTIONS)
    assert done.total() == 2000
