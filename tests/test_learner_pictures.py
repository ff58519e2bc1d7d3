"""Different pictures in memory are counted by what they show, not by their names."""

from __future__ import annotations

from tiny_learner import make_pairs, tiny_learner

from learner.memory.pictures import different


def test_the_same_picture_under_another_name_is_not_a_different_one() -> None:
    learner = tiny_learner()
    for pair in make_pairs(4) * 3:
        learner.add(pair)
    looked, found = different(learner.memory, 64)
    assert (looked, found) == (len(learner.memory), 4)
    assert different(learner.memory, 2) == (2, 2)
    assert different(tiny_learner().memory, 64) == (0, 0)
