"""The inventory of a spool: its segments, the spans of its epochs, and which pairs are lost for a consumer.

Pure: it uses no files, threads, locks or clocks.

- An epoch whose segments were all evicted is still named, so that a consumer counts what it missed.
- A pair that was appended, and that is not in the spool any more or cannot be read, is lost for a consumer that asks for it.
- A pair beyond the end of the open epoch does not exist yet. A pair beyond the end of any other epoch, known or not, is lost.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from device.spool.segment import Removal, Segment, State
from stream.live.backfill_messages import Span
from stream.ranges import Ranges

log = logging.getLogger(__name__)


class Inventory:
    """The segments and epochs of a spool. Not thread-safe.

    epoch: the open epoch, which is being written. segments: those of earlier runs, oldest first.
    earlier_ends: number of the last pair, plus one, of each earlier epoch that has a file for it, oldest first.
    Raises ValueError if there are already pairs of `epoch`.
    """

    def __init__(
        self, epoch: str, segments: Iterable[Segment] = (), earlier_ends: Mapping[str, int] | None = None
    ) -> None:
        self.epoch = epoch
        self.end = 0
        """Number of the last pair of the open epoch, plus one."""
        self.segments = list(segments)
        self.lost: Counter[str] = Counter(evicted=0, rot=0)
        """Number of lost pairs by cause, since the spool was opened."""
        self._earlier_ends = dict(earlier_ends or {})
        if any(segment.epoch == epoch for segment in self.segments):
            raise ValueError(f"epoch {epoch} was used before")

    def epoch_ends(self) -> dict[str, int]:
        """Return, for every known epoch, the number of its last pair plus one."""
        return self._earlier_ends | {segment.epoch: segment.end for segment in self.segments} | {self.epoch: self.end}

    def evicted_epochs(self) -> dict[str, int]:
        """Return the ends of earlier epochs of which no pair is left, oldest first; some consumer may not know them yet."""
        there = {segment.epoch for segment in self.segments}
        return {epoch: end for epoch, end in self._earlier_ends.items() if epoch not in there}

    def spans(self) -> list[Span]:
        """See `Shelf`."""
        bounds = {epoch: (end, end) for epoch, end in self.evicted_epochs().items()}
        for segment in self.segments:
            tail, _ = bounds.get(segment.epoch, (segment.first, 0))
            bounds[segment.epoch] = tail, segment.end
        tail, _ = bounds.pop(self.epoch, (self.end, 0))
        earlier = [Span(epoch, tail, head, False) for epoch, (tail, head) in bounds.items()]
        return [*earlier, Span(self.epoch, tail, self.end, True)]

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
        removal = Removal(tuple(segments))
        for segment in removal.segments:
            self.segments.remove(segment)
            segment.state = State.DELETED
        return removal

    def forget(self, epochs: Sequence[str]) -> Removal:
        """Forget these evicted epochs, so that they are no longer named to consumers."""
        for epoch in epochs:
            del self._earlier_ends[epoch]
        return Removal(epochs=tuple(epochs))

    def _count_lost(self, cause: str, segment: Segment, first: int, end: int, count: int) -> None:
        if count > 0 and segment.state is not State.DELETED:
            self.lost[cause] += count
            log.warning("LOST [%d, %d) epoch=%s cause=%s pairs=%d", first, end, segment.epoch, cause, count)
