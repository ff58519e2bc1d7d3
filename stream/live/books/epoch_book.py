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

from stream.errors import MalformedMessage
from stream.live.announcements import Announcement, Bye
from stream.live.backfill_messages import MAX_ROWS, Span
from stream.pair import Count
from stream.ranges import Ranges

MAX_DECLARED = 10_000_000
"""Largest number of pairs beyond the last received one that announcements can declare: four days at 30 pairs a second. A larger
number is not believed: without a spool it would be counted as lost at once."""
MAX_SKIPPED = 1_000_000_000
"""Largest number of pairs that can be missing before a received one: a year at 30 pairs a second."""
MAX_TRIES = 3
"""How often a pair may come broken from a spool before it is lost."""
OWNER_SILENT_S = 10.0
"""Seconds of silence after which an epoch that one endpoint has named can belong to another endpoint that names it too."""


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


@dataclass(slots=True)
class _Share:
    """The known and lost ranges of one epoch that are counted in the budget."""

    budget: RangeBudget
    known: int = 0
    lost: int = 0

    def count(self, known: Ranges, lost: Ranges) -> None:
        """Count these ranges. If there are too many lost ones, the oldest are dropped, and only the number of pairs remains."""
        self.budget.known += len(known) - self.known
        self.budget.lost += len(lost) - self.lost
        while self.budget.lost > self.budget.max_ranges and len(lost):
            lost.remove(*next(iter(lost)))
            self.budget.lost -= 1
        self.known, self.lost = len(known), len(lost)

    def give_back(self) -> None:
        """Take them out of the budget."""
        self.budget.known -= self.known
        self.budget.lost -= self.lost


class EpochCursor(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename={"first": "joined"}):
    """The part of a cursor that belongs to one epoch.

    spooled: whether its rig keeps a spool; None if nobody has said so, and in cursors of earlier versions.
    """

    first: Count
    head: Count
    done: list[tuple[Count, Count]]
    lost: list[tuple[Count, Count]]
    gone: bool
    spooled: bool | None = None


@dataclass(slots=True)
class EpochBook:
    """The numbers of an epoch, and the rules by which they become known.

    Only the rig that owns an epoch can say that pairs of it are lost. Its owner is the endpoint whose spool named it; until then
    it is the endpoint that this process heard of it from first. An epoch from a cursor has no owner until a spool names it.

    counts: of its device; the book counts lost, returned and repeated pairs there. since_s: time of the first message about the
    epoch. speaker: number of the endpoint that sent it; None for an epoch from a cursor. endpoint: number of the endpoint whose
    spool named it. spooled: as in `EpochCursor`.
    """

    budget: RangeBudget
    counts: Counter[str]
    first: int
    """The first number that this consumer is to receive."""
    head: int
    """One past the largest number that is known to exist."""
    since_s: float
    speaker: int | None = None
    known: Ranges = field(default_factory=Ranges)
    done: Ranges = field(default_factory=Ranges)
    lost: Ranges = field(default_factory=Ranges)
    state: EpochState = EpochState.HEARD
    endpoint: int | None = None
    spooled: bool | None = None
    closed: bool = False
    """Whether the epoch has ended, so that no number from `head` on will ever exist."""
    closed_s: float = float("inf")
    """When the bye was heard."""
    _proven: int = 0
    """One past the largest number of which more is known than an announcement."""
    _named_s: float = float("-inf")
    """When the owner was asked for the last answer that named the epoch."""
    _tries: Counter[int] = field(default_factory=Counter)
    """How often each missing pair came broken."""
    _share: _Share = field(init=False)

    def __post_init__(self) -> None:
        self._proven = self.head
        self._share = _Share(self.budget)

    @property
    def owner(self) -> int | None:
        """The number of the endpoint that can say which pairs of the epoch are lost; None if it is not known."""
        return self.speaker if self.endpoint is None else self.endpoint

    @property
    def received(self) -> int:
        """Number of received pairs."""
        return self.known.count - self.lost.count

    @classmethod
    def restore(cls, cursor: EpochCursor, budget: RangeBudget, counts: Counter[str]) -> Self:
        """Rebuild the state of an epoch from a cursor. Raises ValueError for a cursor that contradicts itself."""
        done, lost = Ranges(cursor.done), Ranges(cursor.lost)
        if done.end > cursor.head or any(done.overlap(first, last) < last - first for first, last in lost):
            raise ValueError("this is not the cursor of a live stream (it contradicts itself)")
        known, since_s = Ranges(done), float("-inf")
        book = cls(budget, counts, cursor.first, cursor.head, since_s, known=known, done=done, lost=lost)
        book.spooled = cursor.spooled
        book._share.count(known, lost)
        if cursor.gone:
            book.state = EpochState.GONE
        elif cursor.spooled is False:
            book.state = EpochState.UNSPOOLED
            book.dismiss()  # what waited for the last process: nobody has it any more
        return book

    def cursor(self, *, live: bool) -> EpochCursor:
        """Return this epoch's part of a cursor. live: whether the epoch is being published."""
        gone = self.state is EpochState.GONE or (self.state is EpochState.UNSPOOLED and not live)
        return EpochCursor(self.first, self.head, list(self.done), list(self.lost), gone, self.spooled)

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
        self._proven = max(self._proven, seq + 1)
        self.known.add(seq, seq + 1)
        self._tries.pop(seq, None)
        self._share.count(self.known, self.lost)
        return True

    def require_plausible(self, seq: int, max_ahead: int) -> None:
        """Raise MalformedMessage if a number lies so far beyond all that is known that it must be wrong."""
        if seq - self._proven > max_ahead:
            raise MalformedMessage("header", f"number {seq} is not believed: {self._proven} was the last one, plus one")

    def announce(self, announcement: Announcement, now_s: float) -> None:
        """Note how far the rig is, whether its stream has ended, and whether it keeps a spool.

        An epoch that has a spool keeps it: who says the opposite is not its rig. Raises MalformedMessage for a number that
        cannot be believed.
        """
        self.require_plausible(announcement.next_seq, MAX_DECLARED)
        self.head = max(self.head, announcement.next_seq)
        if isinstance(announcement, Bye) and not self.closed:
            self.closed, self.closed_s = True, now_s
        if announcement.backfill:
            self.spooled = True
            if self.state is EpochState.UNSPOOLED:
                self.state = EpochState.HEARD
        elif not self.spooled:
            self.state, self.spooled = EpochState.UNSPOOLED, False

    def read_span(self, span: Span, endpoint: int, asked_s: float) -> None:
        """Note which pairs the spool of an endpoint has; missing ones that it does not have are lost.

        Nothing is noted if the spool of another endpoint has named the epoch a moment ago.
        """
        if self.endpoint not in (None, endpoint) and asked_s - self._named_s < OWNER_SILENT_S:
            return
        self._named_s = max(asked_s, self._named_s)
        # The first pair that was received live may not be the first one there is.
        self.first = min(self.first, span.tail)
        self.endpoint, self.state, self.spooled = endpoint, EpochState.SPOOLED, True
        self.head, self._proven = max(self.head, span.head), max(self._proven, span.head)
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
            self._share.count(self.known, self.lost)
            for seq in [seq for seq in self._tries if first <= seq < last]:
                del self._tries[seq]

    def give_up_said(self, lost: Iterable[tuple[int, int]]) -> None:
        """Count the missing pairs of these ranges as lost, because the owner has said that it cannot send them."""
        self.give_up([hole for first, last in lost for hole in self.known.missing(first, min(last, self.head))])

    def came_broken(self, first: int, last: int) -> list[int]:
        """Note that the missing pairs of [first, last) did not come whole; return those that are lost after MAX_TRIES times."""
        lost = []
        for hole in list(self.known.missing(first, min(last, first + MAX_ROWS, self.head))):
            for seq in range(*hole):
                self._tries[seq] += 1
                if self._tries[seq] == MAX_TRIES:
                    lost.append(seq)
        self.give_up((seq, seq + 1) for seq in lost)
        return lost

    def spoil(self, seq: int) -> None:
        """Count a delivered pair as lost, because the learner cannot use it."""
        self.counts["lost"] += self.lost.add(seq, seq + 1)
        self._share.count(self.known, self.lost)

    def forget(self) -> None:
        """Give the ranges of this epoch back to the budget."""
        self._share.give_back()
