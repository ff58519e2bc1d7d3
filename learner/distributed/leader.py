"""How the first process of a run leads the others: it alone has the source, the store and the screen.

Each process has the networks and a shard of the memory. The first deals the pairs that arrive over the shards, round robin
by key, and orders what is done next; all then do it in step. In one process there is nobody to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Literal, NamedTuple

from learner.distributed import collectives
from stream.pair import EncodedPair

_DEALT_AT_ONCE = 64
"""Pairs on their way to the other processes while a commit is read back."""

Verb = Literal["take", "step", "save", "load", "end"]


class Tally(NamedTuple):
    """What the memory of one process, or of all, holds and has let go of, in pairs."""

    drawable: int
    """Waiting or kept, and not in quarantine."""
    waiting: int
    kept: int
    untrained: int
    quarantined: int
    undecodable: int


class Order(NamedTuple):
    """To one process: what to do, with the pairs dealt to it under their keys, and its part of what that takes."""

    verb: Verb
    pairs: Sequence[tuple[int, EncodedPair]] = ()
    part: Any = None


class Crew:
    """All processes, as the first one sees them; `tally` counts what this one has."""

    def __init__(self, tally: Callable[[], Tally]) -> None:
        self._tally = tally
        self._others = [Tally(*(0 for _ in Tally._fields))] * (collectives.count() - 1)
        self._dealt: list[list[tuple[int, EncodedPair]]] = [[] for _ in range(collectives.count())]
        self._listens = True

    @property
    def owed(self) -> int:
        """Pairs that were dealt, which the next order will take along."""
        return sum(map(len, self._dealt))

    def tallies(self) -> list[Tally]:
        """Of each process: of this one now, of the others after the last order."""
        return [self._tally(), *self._others]

    def deal(self, key: int, pair: EncodedPair) -> None:
        """Give this pair to the process it belongs to, with the next order."""
        self._dealt[owner(key)].append((key, pair))

    @contextmanager
    def ordered(self, verb: Verb, parts: Sequence[Any] | None = None) -> Iterator[None]:
        """Every process does this now, the first in the body; parts: what is meant for each."""
        dealt, self._dealt = self._dealt, [[] for _ in self._dealt]
        self._listens = (
            False  # where anything is raised here the others are amid something: no more can be said to them
        )
        collectives.dealt(
            [Order(verb, pairs, part) for pairs, part in zip(dealt, parts or [None] * len(dealt), strict=True)]
        )
        yield
        self._others = collectives.collected(self._tally())[1:]
        self._listens = True

    def dismiss(self) -> None:
        """Let the others end, where they listen."""
        if self._listens and collectives.rank() == 0:
            self._listens = False
            collectives.dealt([Order("end")] * collectives.count())


def owner(key: int) -> int:
    """The process that a new pair belongs to."""
    return key % collectives.count()


def deal_back(pairs: Iterable[EncodedPair | None], owners: Iterable[int]) -> Iterator[EncodedPair | None]:
    """In the first process: deal remembered pairs to the processes they belong to, and give its own."""
    waiting = zip(pairs, owners, strict=True)
    while some := list(islice(waiting, _DEALT_AT_ONCE)):
        yield from collectives.dealt(
            [[pair for pair, to in some if to == number] for number in range(collectives.count())]
        )
    collectives.dealt([None] * collectives.count())


def dealt_back() -> Iterator[EncodedPair | None]:
    """In the others: the remembered pairs that belong here."""
    nothing: Sequence[list[EncodedPair | None] | None] | None = None
    while (part := collectives.dealt(nothing)) is not None:
        yield from part
