"""One device as its consumer knows it: its epochs, its counts, and what it reports about itself. Pure."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Annotated, Self

import msgspec

from stream.live.announcements import Position
from stream.live.backfill_messages import MAX_EPOCHS, Epoch, Seq, Span, SpansReply, Vitals
from stream.live.epoch_book import Arrival, EpochBook, EpochCursor, EpochState, RangeBudget
from stream.pair import EncodedPair, Header
from stream.ranges import Ranges
from stream.stats import DeviceStats

SETTLED_S = 0.3
"""Pairs beyond the last live one are pulled only after so long a silence: they may be on their way."""
MAX_COUNT = (1 << 63) - 1
"""Largest count in a cursor, so that no number from the network makes one that cannot be read again."""

_DELIVERED = ("received", "suppressed", "junk")
"""Counts of which a cursor keeps only the share of the delivered pairs."""
_COUNTS = (*_DELIVERED, "lost", "returned", "repeated", "clock_steps")

log = logging.getLogger(__name__)


class DeviceCursor(msgspec.Struct, forbid_unknown_fields=True, rename={"spool_known": "met"}):
    """A device in a cursor."""

    epochs: Annotated[dict[Epoch, EpochCursor], msgspec.Meta(max_length=2 * MAX_EPOCHS)]
    counts: Annotated[dict[str, Seq], msgspec.Meta(max_length=len(_COUNTS))]
    spool_known: bool


class DeviceBook:
    """The epochs of a device, the oldest first, and what is counted over all of them."""

    def __init__(self) -> None:
        self.epochs: dict[str, EpochBook] = {}
        self.live = ""
        """The epoch that is published now; empty until this process has heard of one."""
        self.spool_known = False
        """Its spool has named its epochs: any other one began later, so all of its pairs are ours."""
        self.bytes = 0
        """Encoded images received in this process."""
        self._counts = Counter[str]()
        self._delivered = Counter[str]()
        self._name_is_shared = False
        self._newest: Header | None = None
        self._last_live_s: float | None = None
        self._clock: tuple[int, int] | None = None
        self._vitals = Vitals()

    @classmethod
    def restore(cls, cursor: DeviceCursor, budget: RangeBudget) -> Self:
        """The device as an earlier process left it. Raises ValueError for a cursor that contradicts itself."""
        device = cls()
        device.epochs = {epoch: EpochBook.restore(book, budget) for epoch, book in cursor.epochs.items()}
        device.spool_known = cursor.spool_known
        device._counts, device._delivered = Counter(cursor.counts), Counter(cursor.counts)
        lost = sum(book.lost.count for book in device.epochs.values())
        device._counts["lost"] = max(device._counts["lost"], lost)
        return device

    def cursor(self) -> DeviceCursor:
        """What is done, for a cursor."""
        counts = {name: (self._delivered if name in _DELIVERED else self._counts)[name] for name in _COUNTS}
        return DeviceCursor(
            epochs={epoch: book.cursor(live=epoch == self.live) for epoch, book in self.epochs.items()},
            counts={name: min(count, MAX_COUNT) for name, count in counts.items()},
            spool_known=self.spool_known,
        )

    def receive(self, book: EpochBook, pair: EncodedPair) -> bool:
        """Enter a pair; False where it was received before."""
        header = pair.header
        arrival = book.receive(header.seq)
        if arrival is Arrival.REPEATED:
            self._counts["repeated"] += 1
            return False
        if arrival is Arrival.RETURNED:
            self._counts.update(lost=-1, returned=1)
        self.bytes += len(pair.left) + len(pair.right)
        self._counts.update(received=1, suppressed=header.suppressed, junk=header.junk)
        return True

    def deliver(self, header: Header) -> None:
        """The learner has a pair that had been received."""
        self.epochs[header.epoch].done.add(header.seq, header.seq + 1)
        self._delivered.update(received=1, suppressed=header.suppressed, junk=header.junk)

    def see_live(self, header: Header, now_s: float) -> None:
        """Note what a live pair shows of its device: its epoch, its clock, and that it is treply."""
        newest = self._newest
        if newest is not None and newest.epoch == header.epoch:
            self._counts["clock_steps"] += header.seq == newest.seq + 1 and header.left_ns < newest.left_ns
        elif newest is not None:
            if newest.epoch in self.epochs:
                self.epochs[newest.epoch].superseded = True
            if self.epochs[header.epoch].superseded and not self._name_is_shared:
                self._name_is_shared = True  # a rig that starts again never returns to an old epoch; two of one name do
                log.warning("two devices are named %s: give each a --name of its own", header.device)
        self.live, self._newest, self._last_live_s = header.epoch, header, now_s

    def announce(self, book: EpochBook, position: Position, *, closed: bool) -> None:
        """Note where the device is. Without a spool no missing pair will be sent, of its earlier epochs neither."""
        self.live = position.epoch
        book.announce(position.next_seq, backfill=position.backfill)
        book.closed = book.closed or closed
        if book.state is not EpochState.UNSPOOLED:
            return
        for other in self.epochs.values():
            if other is book or other.endpoint is None:
                self._counts["lost"] += other.dismiss()

    def give_up(self, book: EpochBook, holes: Iterable[tuple[int, int]]) -> None:
        """The pairs of these holes will never be received."""
        self._counts["lost"] += book.give_up(holes)

    def read_span(self, book: EpochBook, span: Span, endpoint: int) -> None:
        """Note what a spool has of an epoch."""
        self._counts["lost"] += book.read_span(span, endpoint)

    def dismiss_unnamed(self, named: Container[str], endpoint: int, asked_s: float) -> None:
        """Give up the epochs that the spool of an endpoint no longer names.

        Those of another endpoint's spool (two rigs of one name) stay, and those that are newer than the question.
        """
        for epoch, book in self.epochs.items():
            if epoch not in named and book.endpoint in (None, endpoint) and book.since_s < asked_s:
                book.closed = True
                self._counts["lost"] += book.dismiss()

    def read_spool(self, reply: SpansReply, asked_s: float, answered_ns: int) -> None:
        """Note the order of the epochs, of which the oldest is pulled first, the clock, and the state of the rig."""
        named = [span.epoch for span in reply.spans]
        live = self.epochs.get(self.live)
        if live is None or self.live in named or live.since_s < asked_s:
            self.live = named[-1]
        self.epochs = {epoch: self.epochs[epoch] for epoch in dict.fromkeys((*named, *self.epochs))}
        self.spool_known = True
        self._clock = (reply.now_ns - (reply.asked_ns + answered_ns) // 2, max(0, answered_ns - reply.asked_ns) // 2)
        self._vitals = reply.vitals

    def next_hole(
        self, endpoint: int, now_s: float, requested: Mapping[str, Sequence[tuple[int, int]]]
    ) -> tuple[str, int, int] | None:
        """Epoch, first and last of the oldest hole that the spool of an endpoint can fill and is not asked for yet."""
        flowing = self._last_live_s is not None and now_s - self._last_live_s < SETTLED_S
        for epoch, book in self.epochs.items():
            if book.endpoint != endpoint:
                continue
            under_way = Ranges(requested.get(epoch, ()))
            for hole in book.holes(book.known.end if flowing and epoch == self.live else None):
                for first, last in under_way.missing(*hole):
                    return epoch, first, last
        return None

    def acknowledgement(self, cursor: DeviceCursor, endpoint: int) -> dict[str, int]:
        """For each epoch in the spool of an endpoint the number below which a cursor has all pairs, or counts them as lost."""
        there = {
            epoch: book
            for epoch, book in self.epochs.items()
            if book.endpoint == endpoint and book.state is not EpochState.GONE
        }
        # Counted from the first number known now: the spool may have named pairs before those that the cursor knows of.
        return {
            epoch: Ranges(kept.done).reach(there[epoch].first)
            for epoch, kept in cursor.epochs.items()
            if epoch in there
        }

    def pending(self) -> int:
        """How many pairs are missing."""
        return sum(last - first for book in self.epochs.values() for first, last in book.holes())

    def has_ended(self) -> bool:
        """Whether its stream has ended, and no pair is missing. Where there is a spool, that has to agree."""
        book = self.epochs.get(self.live)
        if book is None or not book.closed or (book.state is not EpochState.UNSPOOLED and book.endpoint is None):
            return False
        return not self.pending()

    def stats(self) -> DeviceStats:
        """The device as of now."""
        epoch = self.live or next(reversed(self.epochs))
        offset_ns, error_ns = self._clock or (None, None)
        return DeviceStats(
            epoch=epoch,
            next_seq=self.epochs[epoch].head,
            pending=self.pending(),
            clock_offset_ns=offset_ns,
            clock_error_ns=error_ns,
            battery=self._vitals.battery,
            temperature_c=self._vitals.temperature_c,
            ended=self.has_ended(),
            last_received_s=self._last_live_s,
            **{name: self._counts[name] for name in _COUNTS},
        )
