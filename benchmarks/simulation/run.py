"""A run directory: the real rules of commits over a store and checkpoints in dictionaries, which can be damaged and copied."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np

from benchmarks.simulation.truth import Name
from buffer.store_reader import Commit
from learner.errors import LearnerError
from learner.runs.commit import Committer
from learner.runs.restore import restore
from stream.source import Cursor

RESTORABLE = 2
"""Commits that the store lists."""


class Saved(NamedTuple):
    """A commit: the pairs that have entered, in their order, and the cursor."""

    entered: tuple[Name, ...]
    cursor: Cursor


class Killed(Exception):
    """The process dies here."""


@dataclass
class Folder:
    """What lies in a run directory: a `PairStore` and the `Checkpoints` of `learner.runs.commit`."""

    identity: str = ""
    """Empty: there is no store yet."""
    rows: dict[int, bytes] = field(default_factory=dict)
    made: list[Commit] = field(default_factory=list)
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)
    is_begun: bool = False
    """Whether lines of steps were written, so that the run cannot be a new one."""
    kill_at: str = ""
    """The method in which the process dies."""
    random: Random = field(default_factory=Random)
    """Gives a new store its identity."""

    def copy(self) -> Folder:
        """Return a copy that shares nothing that changes."""
        found = Folder(self.identity, dict(self.rows), list(self.made), dict(self.states))
        found.damaged, found.unfinished, found.is_begun = set(self.damaged), set(self.unfinished), self.is_begun
        return found

    def contents(self) -> tuple[object, ...]:
        """Return what lies in it, to be compared."""
        notes = [(commit.number, commit.note) for commit in self.made]
        return dict(self.rows), notes, set(self.states), set(self.damaged), set(self.unfinished)

    @property
    def is_new(self) -> bool:
        """See `StoredPairs`."""
        return not self.identity

    def put(self, key: int, item: bytes, timeout_s: float | None = None) -> bool:
        """See `PairStore`."""
        self.rows[key] = item
        return True

    def items(self, keys: Iterable[int]) -> Iterator[bytes]:
        """See `StoredPairs`."""
        return (self.rows[key] for key in keys)

    def checksums(self, keys: Iterable[int]) -> Any:
        """See `StoredPairs`."""
        return np.array([zlib.crc32(self.rows[key]) if key in self.rows else -1 for key in keys], np.int64)

    def flush(self) -> Future[None]:
        """See `PairStore`."""
        self._die("flush")
        return _done(None)

    def commit(self, keys: Any, note: bytes) -> Future[None]:
        """See `PairStore`. Items that no commit names are removed, except newer ones."""
        self._die("commit")
        number = 1 + max((commit.number for commit in self.made), default=0)
        self.made = [*self.made, Commit(number, note, np.array(keys))][-RESTORABLE:]
        return _done(None)

    def commits(self) -> list[Commit]:
        """See `StoredPairs`."""
        return self.made[::-1]

    def rewind(self, number: int, adopted: tuple[Any, bytes] | None = None) -> None:
        """See `PairStore`."""
        self.identity = self.identity or f"{self.random.getrandbits(64):032x}"
        self.made = [commit for commit in self.made if commit.number <= number]
        if adopted is not None:
            self.commit(*adopted)
        named = {key for commit in self.made for key in commit.keys.tolist()}
        self.rows = {key: item for key, item in self.rows.items() if key in named}

    def save(self, name: str, state: dict[str, Any]) -> None:
        """See `Checkpoints`."""
        self.states[name] = state
        self.unfinished.add(name)
        self._die("save")
        self.unfinished.discard(name)

    def load(self, name: str) -> dict[str, Any]:
        """See `Checkpoints`."""
        if not self.is_whole(name):
            raise LearnerError(f"{name} is damaged")
        return dict(self.states[name])

    def names(self) -> set[str]:
        """See `Checkpoints`."""
        return set(self.states)

    def is_taken(self, number: int) -> bool:
        """See `Checkpoints`."""
        return any(name.startswith(f"commit-{number:06d}-") for name in self.states)

    def is_whole(self, name: str) -> bool:
        """See `Checkpoints`."""
        return name in self.states and name not in self.damaged and name not in self.unfinished

    def is_unfinished(self, name: str) -> bool:
        """See `Checkpoints`."""
        return name in self.unfinished

    def remove(self, name: str) -> None:
        """See `Checkpoints`."""
        self._die("remove")
        self.states.pop(name, None)
        self.damaged.discard(name)
        self.unfinished.discard(name)

    def _die(self, where: str) -> None:
        if self.kill_at == where:
            raise Killed


class AtOnce(Executor):
    """Does each task where it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do a task, and return its result or its error."""
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class _ListingLearner:
    """A learner that learns nothing: its state is the list of its pairs."""

    def __init__(self) -> None:
        self.entered: tuple[Name, ...] = ()
        self.steps = 1

    def state_dict(self) -> dict[str, Any]:
        return {"memory": {"keys": np.arange(len(self.entered))}, "entered": self.entered}

    def load_state_dict(self, state: dict[str, Any], pairs: Iterable[object]) -> None:
        self.entered = tuple(map(tuple, state["entered"]))
        assert len(list(pairs)) == len(self.entered)


class Run:
    """The process of a learner on a folder. Raises LearnerError, and changes nothing, if the folder cannot be continued from.

    The folder must not be used by anything else. source: has the methods `cursor` and `acknowledge` of a `Source`.
    """

    def __init__(self, folder: Folder, random: Random, acknowledge: Callable[[Cursor], None]) -> None:
        self.folder = folder
        folder.random = random
        self._learner = cast(Any, _ListingLearner())  # restore and commit use no other methods of a learner
        self.cursor = restore(self._learner, folder, folder, self._require_new)
        self._cursor: Cursor = self.cursor or {"devices": {}}
        source: Any = SimpleNamespace(cursor=lambda: self._cursor, acknowledge=acknowledge)
        self._committer = Committer(self._learner, source, folder, folder, clock=lambda: 0.0, writer=AtOnce())
        self._committer.begin_run(lambda: True)
        folder.is_begun = True

    @property
    def entered(self) -> tuple[Name, ...]:
        """The pairs that its newest commit holds, in their order."""
        return tuple(self._learner.entered)

    def commit(self, entered: list[Name], cursor: Cursor, *, acknowledges: bool = True) -> Saved:
        """Commit these pairs and the cursor, and acknowledge it. Raises Killed where the folder says so."""
        for key in range(len(self._learner.entered), len(entered)):
            self.folder.put(key, repr(entered[key]).encode())
        self._learner.entered, self._cursor = tuple(entered), cursor
        self._learner.steps += 1
        self._committer.begin()
        self._committer.settle() if acknowledges else None
        return Saved(self._learner.entered, cursor)

    def _require_new(self) -> None:
        if self.folder.is_begun:
            raise LearnerError("there are lines of steps, but no commit")


def _done(result: None) -> Future[None]:
    done: Future[None] = Future()
    done.set_result(result)
    return done
