"""The rules of commits without a file, a thread or a clock: what a simulation drives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from committing import Acknowledging
from learner_state import digest
from tiny_learner import make_pairs, tiny_learner

from benchmarks.simulation.run import AtOnce, Folder
from learner.loop import Learner, learn
from learner.runs.commit import Committer
from learner.runs.restore import restore


class Shelf(Folder):
    """Pairs, commits and checkpoints in dictionaries."""

    def __init__(self) -> None:
        super().__init__(identity="5" * 32)

    def save(self, name: str, state: dict[str, Any]) -> None:
        super().save(name, copy.deepcopy(state))  # the next commit overwrites it


def trained(shelf: Shelf, commits: int) -> tuple[Learner, Acknowledging, list[str]]:
    """A learner with so many commits, two steps between each, and what it was at each of them."""
    learner, source, digests = tiny_learner(), Acknowledging(make_pairs(60)), list[str]()
    committer = Committer(learner, source, shelf, shelf, clock=lambda: 0.0, writer=AtOnce())
    events = learn(learner, source, clock=lambda: 0.0, keep=committer.keep)
    for _ in range(commits):
        steps = learner.steps
        while learner.steps < steps + 2:
            next(events)
        committer.begin()
        committer.settle()
        digests.append(digest(learner))
    return learner, source, digests


def test_each_commit_is_acknowledged_and_the_newest_one_is_restored() -> None:
    shelf = Shelf()
    learner, source, digests = trained(shelf, 3)
    assert len(source.acknowledged) == 3
    assert source.acknowledged[-1] == learner.received
    assert list(shelf.states) == ["commit-000002-step-4", "commit-000003-step-6"]
    other = tiny_learner()
    assert restore(other, shelf, shelf) == {"given": learner.received}
    assert digest(other) == digests[-1]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_is_removed_once_the_next_commit_is_durable() -> None:
    shelf = Shelf()
    _, source, digests = trained(shelf, 3)
    shelf.damaged.add("commit-000003-step-6")
    other = tiny_learner()
    assert restore(other, shelf, shelf) == {"given": source.acknowledged[1]}
    assert digest(other) == digests[1]
    assert list(shelf.states) == ["commit-000002-step-4", "commit-000003-step-6"]
    committer = Committer(other, Acknowledging([]), shelf, shelf, clock=lambda: 0.0, writer=AtOnce())
    committer.begin()
    committer.settle()
    assert list(shelf.states) == ["commit-000002-step-4", "commit-000004-step-4"]


def test_a_commit_that_the_store_has_lost_is_continued_from_while_its_pairs_are_there() -> None:
    shelf = Shelf()
    learner, _, digests = trained(shelf, 3)
    shelf.made.pop()
    other = tiny_learner()
    assert restore(other, shelf, shelf) == {"given": learner.received}
    assert digest(other) == digests[-1]
    assert shelf.made[-1].number == 3


def test_a_commit_whose_pairs_are_lost_gives_way_and_its_checkpoint_stays() -> None:
    shelf = Shelf()
    _, source, digests = trained(shelf, 3)
    del shelf.rows[max(shelf.rows)]
    other = tiny_learner()
    assert restore(other, shelf, shelf) == {"given": source.acknowledged[1]}
    assert digest(other) == digests[1]
    committer = Committer(other, Acknowledging([]), shelf, shelf, clock=lambda: 0.0, writer=AtOnce())
    for _ in range(3):
        committer.begin()
        committer.settle()
    assert list(shelf.states) == ["commit-000003-step-6", "commit-000005-step-4", "commit-000006-step-4"]


def test_nothing_is_acknowledged_or_removed_where_a_commit_cannot_be_read_back() -> None:
    shelf = Shelf()
    learner, _, _ = trained(shelf, 2)
    names = shelf.names()
    source = Acknowledging([])
    committer = Committer(learner, source, shelf, shelf, clock=lambda: 0.0, writer=AtOnce())
    shelf.commits = lambda: shelf.made[:1]  # type: ignore[method-assign]
    committer.begin()
    with pytest.raises(OSError, match="cannot be read back"):
        committer.settle()
    assert source.acknowledged == []
    assert names < shelf.names()


def test_nothing_is_acknowledged_where_the_checkpoint_cannot_be_saved() -> None:
    class Full(Shelf):
        def save(self, name: str, state: dict[str, Any]) -> None:
            raise OSError("no room")

    learner, source = tiny_learner(), Acknowledging(make_pairs(8))
    shelf = Full()
    committer = Committer(learner, source, shelf, shelf, clock=lambda: 0.0, writer=AtOnce())
    committer.begin()
    with pytest.raises(OSError, match="no room"):
        committer.settle()
    assert source.acknowledged == []
    assert shelf.made == []
