"""What a consumer knows of one epoch of a device: which pairs were received, delivered or lost, and which are missing.

Pure. A number is *known* once its pair was received or is lost for good, and *done* once its pair was delivered to the learner
or is lost for good. A number below the head that is not known is a hole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Self

import msgspec

from stream.live.announcements import Announcement, Bye
from stream.live.backfill_messages import Span
from stream.pair import Count
from stream.ranges import Ranges


class EpochState(Enum):
    """Whether the holes of an epoch can be filled."""

    HEARD = auto()
    """The epoch was announced on the live stream. No spool has named it yet, so its holes wait."""
    SPOOLED = auto()
    """A spool has named the epoch: its holes can be pulled."""
    UNSPOOLED = auto()
    """The rig keeps no spool: a hole is a loss at once."""
    GONE = auto()
    """No spool has the epoch any more, and no rig publishes it."""


@dataclass(slots=True)
class RangeBudget:
    """The number of ranges that all epochs together keep, and its limit."""

    max_ranges: int
    known: int = 0
    lost: int = 0


class EpochCursor(msgspec.Struct, forbid_unknown_fields=True, rename={"first": "joined"}):
    """The part of a cursor that belongs to one epoch."""

    first: Count
    head: Count
    done: list[tuple[Count, Count]]
    lost: list[tuple[Count, Count]]
    gone: bool


@dataclass(slots=True)
class EpochBook:
    """The numbers of an epoch, and the rules by which they become known.

    counts: of its device; the book counts lost, returned and repeated pairs there. since_s: time of the first message about the
    epoch. endpoint: number of the endpoint whose spool named it.
    """

    budget: RangeBudget
    counts: Counter[str]
    first: int
    """The first number that this consumer is to receive."""
    head: int
    """One past the largest number that is known to exist."""
    since_s: float
    known: Ranges = field(default_factory=Ranges)
    done: Ranges = field(default_factory=Ranges)
    lost: Ranges = field(default_factory=Ranges)
    state: EpochState = EpochState.HEARD
    endpoint: int | None = None
    closed: bool = False
    """Whether the epoch has ended, so that no number from `head` on will ever exist."""
    superseded: bool = False
    """Whether another epoch of the device was published after this one."""
    _counted: tuple[int, int] = (0, 0)
    """The known and lost ranges that are counted in the budget."""

    @classmethod
    def restore(cls, cursor: EpochCursor, budget: RangeBudget, counts: Counter[str]) -> Self:
        """Rebuild the state of an epoch from a cursor. Raises ValueError for a cursor that contradicts itself."""
        done, lost = Ranges(cursor.done), Ranges(cursor.lost)
        if done.end > cursor.head or any(done.overlap(first, last) < last - first for first, last in lost):
            raise ValueError("this is not the cursor of a live stream (it contradicts itself)")
        state = EpochState.GONE if cursor.gone else EpochState.HEARD
        book = cls(budget, counts, cursor.first, cursor.head, float("-inf"), Ranges(done), done, lost, state)
        book._count_ranges()
        return book

    def cursor(self, *, live: bool) -> EpochCursor:
        """Return this epoch's part of a cursor. live: whether the epoch is being published."""
        gone = self.state is EpochState.GONE or (self.state is EpochState.UNSPOOLED and not live)
        return EpochCursor(self.first, self.head, list(self.done), list(self.lost), gone)

    def holes(self, upto: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the ranges [a, b) of missing numbers, in order. upto: only numbers below it."""
        return self.known.missing(self.first, self.head if upto is None else min(upto, self.head))

    def is_forgettable(self) -> bool:
        """Return whether an epoch that is not live can be forgotten.

        It can if nobody will send a pair of it again, and no pair is missing or waits to be delivered.
        """
        is_over = self.state in (EpochState.GONE, EpochState.UNSPOOLED)
        return is_over and self.done == self.known and not any(self.holes())

    def has_room_for(self, first: int, last: int) -> bool:
        """Return whether the budget lets [first, last) become known: it touches known numbers, or one more range is allowed."""
        touches = first <= self.first or first - 1 in self.known or last in self.known
        return touches or self.budget.known < self.budget.max_ranges

    def receive(self, seq: int) -> bool:
        """Make the number of a received pair known; False if the pair was received before, and is to be dropped."""
        if seq in self.lost:
            self.lost.remove(seq, seq + 1)
            self.done.remove(seq, seq + 1)
            self.counts.update(lost=-1, returned=1)
        elif seq in self.known:
            self.counts["repeated"] += 1
            return False
        self.head = max(self.head, seq + 1)
        self.known.add(seq, seq + 1)
        self._count_ranges()
        return True

    def announce(self, announcement: Announcement) -> None:
        """Note how far the rig is, whether its stream has ended, and whether it keeps a spool."""
        self.head = max(self.head, announcement.next_seq)
        self.closed = self.closed or isinstance(announcement, Bye)
        if not announcement.backfill:
            self.state = EpochState.UNSPOOLED
        elif self.state is EpochState.UNSPOOLED:
            self.state = EpochState.HEARD if self.endpoint is None else EpochState.SPOOLED

    def read_span(self, span: Span, endpoint: int) -> None:
        """Note which pairs the spool of an endpoint has; missing ones that it does not have are lost."""
        # The first pair that was received live may not be the first one there is.
        self.first = min(self.first, span.tail)
        self.endpoint, self.state, self.head = endpoint, EpochState.SPOOLED, max(self.head, span.head)
        self.give_up(self.known.missing(self.first, span.tail))
        if not span.open:
            self.closed = True
            self.give_up(self.known.missing(span.head, self.head))

    def dismiss(self) -> None:
        """Give up all missing pairs: nobody will send them."""
        if self.state is not EpochState.UNSPOOLED:
            self.state = EpochState.GONE
        self.give_up(self.holes())

    def give_up(self, holes: Iterable[tuple[int, int]]) -> None:
        """Count the pairs of these holes as lost: they will never be received."""
        for first, last in list(holes):
            self.counts["lost"] += self.known.add(first, last)
            self.done.add(first, last)
            self.lost.add(first, last)
            self._count_ranges()

    def forget(self) -> None:
        """Give the ranges of this epoch back to the budget."""
        self.budget.known -= self._counted[0]
        self.budget.lost -= self._counted[1]

    def _count_ranges(self) -> None:
        """Update the budget. If there are too many lost ranges, the oldest ones are dropped, and only their count remains."""
        known, lost = self._counted
        self.budget.known += len(self.known) - known
        self.budget.lost += len(self.lost) - lost
        while self.budget.lost > self.budget.max_ranges and len(self.lost):
            self.lost.remove(*next(iter(self.lost)))
            self.budget.lost -= 1
        self._counted = len(self.known), len(self.lost)
