"""The inventory of a spool: its segments, the spans of its epochs, and which pairs are lost for a consumer.

Pure: it uses no files, threads, locks or clocks.

- An epoch whose segments were all deleted is *emptied*. It is still named, so that a consumer with an old cursor counts what it
  missed. Once every consumer has acknowledged all of it, it is *freed* as well: of too many emptied epochs, the freed ones are
  forgotten first.
- A pair that was appended, and that is not in the spool any more or cannot be read, is lost for a consumer that asks for it.
- A pair beyond the end of the open epoch does not exist yet. A pair beyond the end of any other epoch, known or not, is lost.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from device.spool.segment import Removal, Segment, State
from stream.live.backfill_messages import Span
from stream.pair import Count
from stream.ranges import Ranges

log = logging.getLogger(__name__)


class EarlierEpoch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An epoch that an earlier run wrote."""

    run: Count
    """Number of that run; epochs began in the order of their runs."""
    end: Count
    """Number of the last pair, plus one; 0 if it is not known."""
    freed: bool = False
    """Whether every consumer has acknowledged all of it."""


def joined(one: Mapping[str, EarlierEpoch], other: Mapping[str, EarlierEpoch]) -> dict[str, EarlierEpoch]:
    """Return what two lists of epochs say together, oldest first."""
    found = dict(one)
    for epoch, known in other.items():
        here = found.get(epoch, known)
        found[epoch] = EarlierEpoch(here.run, max(here.end, known.end), here.freed or known.freed)
    return dict(sorted(found.items(), key=lambda item: item[1].run))


class Inventory:
    """The segments and epochs of a spool. Not thread-safe.

    epoch: the open epoch, which is being written. segments: those of earlier runs, oldest first.
    earlier: the epochs of earlier runs, as far as they are known from elsewhere. run: number of this run.
    Raises ValueError if `epoch` was used before.
    """

    def __init__(
        self,
        epoch: str,
        segments: Iterable[Segment] = (),
        earlier: Mapping[str, EarlierEpoch] | None = None,
        *,
        run: int = 0,
    ) -> None:
        self.epoch, self.run = epoch, run
        self.end = 0
        """Number of the last pair of the open epoch, plus one."""
        self.segments = list(segments)
        self.lost: Counter[str] = Counter(evicted=0, rot=0)
        """Number of lost pairs by cause, since the spool was opened."""
        there = {segment.epoch: EarlierEpoch(segment.run, segment.end) for segment in self.segments}
        known = {
            name: EarlierEpoch(one.run, one.end, one.freed and name not in there)
            for name, one in (earlier or {}).items()
        }
        self._earlier = joined(there, known)
        if epoch in self._earlier:
            raise ValueError(f"epoch {epoch} was used before")

    def epoch_ends(self) -> dict[str, int]:
        """Return, for every epoch that is not freed, the number of its last pair plus one; oldest first, the open one last."""
        there = {segment.epoch for segment in self.segments}
        ends = {name: one.end for name, one in self._earlier.items() if name in there or not one.freed}
        return ends | {self.epoch: self.end}

    def emptied(self) -> dict[str, EarlierEpoch]:
        """Return the earlier epochs of which no pair is left, oldest first."""
        there = {segment.epoch for segment in self.segments}
        return {epoch: one for epoch, one in self._earlier.items() if epoch not in there}

    def to_save(self) -> dict[str, EarlierEpoch]:
        """Return the epochs that no segment would name after a restart, the open one included, oldest first."""
        is_bare = self.end > 0 and all(segment.epoch != self.epoch for segment in self.segments)
        return self.emptied() | ({self.epoch: EarlierEpoch(self.run, self.end)} if is_bare else {})

    def spans(self, *, freed: bool = False) -> list[Span]:
        """See `Shelf`."""
        tails: dict[str, int] = {}
        for segment in self.segments:
            tails.setdefault(segment.epoch, segment.first)
        named = {epoch: one.end for epoch, one in self._earlier.items() if freed or not one.freed}
        earlier = [Span(epoch, tails.get(epoch, end), end, False) for epoch, end in named.items()]
        return [*earlier, Span(self.epoch, tails.get(self.epoch, self.end), self.end, True)]

    def tails(self) -> dict[str, int]:
        """Return the number of the first pair of each epoch that is named, freed ones included; its end if no pair is left."""
        return {span.epoch: span.tail for span in self.spans(freed=True)}

    def plan_read(self, epoch: str, first: int, last: int) -> tuple[list[tuple[Segment, int]], int]:
        """Return the segments that hold pairs of [first, last) of an epoch, in order, each with the end of the part to read.

        The second value is an end: all numbers of the range below it that are in no segment are lost.
        """
        end = min(last, self.end) if epoch == self.epoch else last
        segments = [s for s in self.segments if s.epoch == epoch and s.first < end and first < s.end]
        return [(segment, min(segment.end, end)) for segment in segments], end

    def count_beyond(self, upto: Mapping[str, int]) -> int:
        """Return the number of pairs that are not below `upto[epoch]`, 0 by default."""
        return sum(segment.count_from(upto.get(segment.epoch, 0)) for segment in self.segments)

    def mark_unreadable(self, segment: Segment, unreadable: Ranges) -> None:
        """Mark these pairs of a segment as unreadable. Each of them counts as lost once."""
        if ranges := list(unreadable):
            new = sum(segment.rotten.add(first, end) for first, end in ranges)
            self._count_lost("rot", segment, ranges[0][0], ranges[-1][1], new)

    def evict(self, segment: Segment, acknowledged: int) -> Removal:
        """Delete a segment. Its pairs from `acknowledged` on count as lost, except those that were unreadable before."""
        first = max(segment.first, acknowledged)
        needed = segment.count_from(first) - segment.rotten.overlap(first, segment.end)
        self._count_lost("evicted", segment, first, segment.end, needed)
        return self.remove([segment])

    def remove(self, segments: Iterable[Segment]) -> Removal:
        """Delete segments."""
        removed = tuple(segments)
        for segment in removed:
            self.segments.remove(segment)
            segment.state = State.DELETED
        left = {segment.epoch for segment in self.segments}
        ends = {epoch: one.end for epoch, one in self._earlier.items()} | {self.epoch: self.end}
        emptied = {segment.epoch: segment.run for segment in removed if segment.epoch not in left}
        return Removal(removed, tuple((run, epoch, ends[epoch]) for epoch, run in emptied.items()))

    def free(self, epochs: Iterable[str]) -> None:
        """Note that every consumer has acknowledged all of these emptied epochs."""
        for epoch in epochs:
            self._earlier[epoch] = msgspec.structs.replace(self._earlier[epoch], freed=True)

    def forget(self, epochs: Sequence[str]) -> Removal:
        """Forget these emptied epochs, so that they are no longer named to consumers."""
        for epoch in epochs:
            del self._earlier[epoch]
        return Removal(forgotten=tuple(epochs))

    def _count_lost(self, cause: str, segment: Segment, first: int, end: int, count: int) -> None:
        if count > 0 and segment.state is not State.DELETED:
            self.lost[cause] += count
            log.warning("LOST [%d, %d) epoch=%s cause=%s pairs=%d", first, end, segment.epoch, cause, count)
