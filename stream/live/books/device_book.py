"""What a consumer knows of one device: its epochs, and the counts over all of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Mapping, Sequence
from typing import Annotated, Self

import msgspec

from stream.live.announcements import Announcement
from stream.live.backfill_messages import MAX_EPOCHS, Span, SpansReply
from stream.live.books.epoch_book import EpochBook, EpochCursor, EpochState, RangeBudget
from stream.live.books.rig_state import RigState
from stream.pair import Count, EncodedPair, Epoch, Header
from stream.ranges import Ranges
from stream.stats import DeviceStats

GONE_S = 10.0
"""Seconds after its bye in which a rig with a spool is expected to say what it holds."""
MAX_COUNT = (1 << 63) - 1
"""Largest count in a cursor. A larger number from the network must not make a cursor that cannot be read again."""

_DELIVERED = ("received", "suppressed", "junk")
"""Names of the counts that include only delivered pairs when they are stored in a cursor."""
COUNTS = (*_DELIVERED, "lost", "returned", "repeated", "clock_steps")

PairRange = tuple[str, int, int]
"""An epoch, and the range [first, last) of numbers in it."""


class DeviceCursor(msgspec.Struct, forbid_unknown_fields=True, rename={"spool_known": "met"}):
    """The part of a cursor that belongs to one device: its epochs and counts.

    spool_known: whether its spool has listed its epochs.
    """

    epochs: Annotated[dict[Epoch, EpochCursor], msgspec.Meta(max_length=2 * MAX_EPOCHS)]
    counts: Annotated[dict[str, Count], msgspec.Meta(max_length=len(COUNTS))]
    spool_known: bool


class DeviceBook:
    """The epochs of a device, the oldest first, and the counts over all of them."""

    def __init__(self) -> None:
        self.epochs: dict[str, EpochBook] = {}
        self.live = ""
        """The epoch that is published now; empty until this process has received a message of one."""
        self.spool_known = False
        """Whether the spool has listed its epochs. An epoch that is not in the list began later, and this consumer wants all
        its pairs."""
        self.bytes = 0
        """Bytes of the encoded images that this process has received."""
        self.counts = Counter[str]()
        self._delivered = Counter[str]()
        self._is_restored = False
        self._rig = RigState()

    @classmethod
    def restore(cls, cursor: DeviceCursor, budget: RangeBudget) -> Self:
        """Rebuild the state of a device from a cursor. Raises ValueError for a cursor that contradicts itself."""
        device = cls()
        device.spool_known, device._is_restored = cursor.spool_known, True
        device.counts, device._delivered = Counter(cursor.counts), Counter(cursor.counts)
        device.epochs = {name: EpochBook.restore(one, budget, device.counts) for name, one in cursor.epochs.items()}
        lost = sum(book.lost.count for book in device.epochs.values())
        device.counts["lost"] = max(device.counts["lost"], lost)
        return device

    def cursor(self) -> DeviceCursor:
        """Return this device's part of a cursor: the done numbers of its epochs, and its counts."""
        counts = {name: (self._delivered if name in _DELIVERED else self.counts)[name] for name in COUNTS}
        return DeviceCursor(
            epochs={epoch: book.cursor(live=epoch == self.live) for epoch, book in self.epochs.items()},
            counts={name: min(count, MAX_COUNT) for name, count in counts.items()},
            spool_known=self.spool_known,
        )

    def receive(self, book: EpochBook, pair: EncodedPair) -> bool:
        """Enter a pair; False if it was received before."""
        header = pair.header
        if not book.receive(header.seq):
            return False
        self.bytes += len(pair.left) + len(pair.right)
        self.counts.update(received=1, suppressed=header.suppressed, junk=header.junk)
        return True

    def deliver(self, header: Header) -> None:
        """Note that the learner has a received pair."""
        self.epochs[header.epoch].done.add(header.seq, header.seq + 1)
        self._delivered.update(received=1, suppressed=header.suppressed, junk=header.junk)

    def see_live(self, header: Header, now_s: float) -> None:
        """Note what a live pair shows of its device: its epoch, its clock, and that it is there."""
        self.counts["clock_steps"] += self._rig.see_pair(header, now_s)
        self.live = header.epoch

    def announce(
        self, book: EpochBook, announcement: Announcement, now_s: float, endpoint: int, all_heard: bool
    ) -> None:
        """Note the position of the device. If it has no spool, its missing pairs are lost.

        all_heard: whether every endpoint has said by now what it has, so that an epoch without an owner is nowhere. Raises
        MalformedMessage for a number that cannot be believed.
        """
        book.announce(announcement, now_s)
        self.live = announcement.epoch
        self._rig.hear(now_s)
        self._rig.see_published(announcement.epoch, announcement.device)
        if book.state is EpochState.UNSPOOLED:
            for other in self.epochs.values():
                is_theirs = other.owner == endpoint or (other.owner is None and all_heard)
                if other is book or (is_theirs and not other.spooled):
                    other.dismiss()

    def hear(self, now_s: float) -> None:
        """Note a sign of life of the device."""
        self._rig.hear(now_s)

    def dismiss_unnamed(
        self,
        named: Container[str],
        endpoint: int,
        asked_s: float,
        all_heard: bool,
        kept_from: Mapping[str, int] | None = None,
    ) -> None:
        """Give up the epochs of an endpoint that its spool does not name, except those that are newer than the request.

        An epoch without an owner is given up once all endpoints were heard: until then the rig that has it may still come.
        kept_from: see `SpansReply`; with it, the pairs before the first one that was heard are given up too.
        """
        for epoch, book in self.epochs.items():
            is_theirs = book.owner == endpoint or (book.owner is None and all_heard)
            if epoch not in named and is_theirs and book.since_s < asked_s:
                if kept_from is not None:
                    book.first = min(book.first, kept_from.get(epoch, 0))
                book.closed = True
                book.dismiss()

    def forget(self, epoch: str) -> None:
        """Forget an epoch."""
        self.epochs.pop(epoch).forget()
        if self.live == epoch:
            self.live = ""

    def wanted_from(self, spans: Sequence[Span]) -> dict[str, int]:
        """Return, before the first answer of a spool is entered, from which number on its epochs are wanted; only where it is 0.

        The spans are in the order in which their epochs began. What follows an epoch that this consumer has heard of has begun
        later. If the spool names none of those, everything it names may have.
        """
        if self.spool_known:
            return {}
        known = [number for number, span in enumerate(spans) if span.epoch in self.epochs]
        if not known and not self._is_restored:
            return {}
        return {span.epoch: 0 for span in spans[known[0] + 1 if known else 0 :]}

    def read_spool(self, reply: SpansReply, asked_s: float, answered_ns: int) -> None:
        """Note the order of the epochs (the oldest one is pulled first), the clock and the state of the rig."""
        # Of too many epochs, some are forgotten at once.
        named = [span.epoch for span in reply.spans if span.epoch in self.epochs]
        if not named:
            return
        live = self.epochs.get(self.live)
        if live is None or self.live in named or live.since_s < asked_s:
            self.live = named[-1]
            self._rig.see_spooled(named[-1], reply.device)
        self.epochs = {epoch: self.epochs[epoch] for epoch in dict.fromkeys((*named, *self.epochs))}
        self.spool_known = True
        self._rig.read(reply, answered_ns)

    def next_request(
        self, endpoint: int, max_pairs: int, now_s: float, requested: Collection[PairRange]
    ) -> PairRange | None:
        """Return the oldest range that is missing, can be pulled from the spool of an endpoint, and was not requested yet."""
        flowing = self._rig.is_flowing(now_s)
        for epoch, book in self.epochs.items():
            if book.endpoint != endpoint:
                continue
            under_way = Ranges((first, last) for other, first, last in requested if other == epoch)
            for hole in book.holes(book.known.end if flowing and epoch == self.live else None):
                for first, last in under_way.missing(*hole):
                    return epoch, first, min(last, first + max_pairs)
        return None

    def acknowledgement(self, cursor: DeviceCursor, endpoint: int) -> dict[str, int]:
        """Return, by epoch in an endpoint's spool, the number below which each pair of a cursor is delivered or lost."""
        upto = {}
        for epoch, kept in cursor.epochs.items():
            book = self.epochs.get(epoch)
            if book is not None and book.endpoint == endpoint and book.state is not EpochState.GONE:
                # The spool may have named pairs before the first one that the cursor knows of.
                upto[epoch] = Ranges(kept.done).reach(book.first)
        return upto

    def pending(self) -> int:
        """Return the number of missing pairs."""
        return sum(last - first for book in self.epochs.values() for first, last in book.holes())

    def has_ended(self, now_s: float = 0.0) -> bool:
        """Return whether its stream has ended and no pair is missing.

        If there is a spool, it must have named the epoch; but a rig that has said bye, and does not answer for GONE_S, has gone.
        """
        book = self.epochs.get(self.live)
        if book is None or not book.closed:
            return False
        answers = book.state is EpochState.UNSPOOLED or book.endpoint is not None or now_s - book.closed_s >= GONE_S
        return answers and not self.pending()

    def stats(self) -> DeviceStats:
        """Return the present statistics of the device."""
        epoch = self.live or next(reversed(self.epochs))
        return DeviceStats(
            epoch=epoch,
            next_seq=self.epochs[epoch].head,
            pending=self.pending(),
            ended=self.has_ended(),
            **self._rig.stats(),
            **{name: self.counts[name] for name in COUNTS},
        )
