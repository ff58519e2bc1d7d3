"""The ledger of all devices: it records which pairs were received, which are missing, and which are lost for good.

Pure: no socket, no thread; the time is passed in. A hole is pulled if the rig has a spool, and lost at once if it has
none. The rules for an epoch are in `stream.live.books.epoch_book`, those for a device in `stream.live.books.device_book`.

Each pair is accepted once: a pair with a known number is a repetition. The done numbers are the cursor that a commit stores. The
ledger of the next process begins there, so that a pair that was lost in a queue is pulled again, and a learned one is not.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

import msgspec

from stream.errors import MalformedMessage
from stream.live.announcements import Announcement
from stream.live.backfill_messages import MAX_EPOCHS, PairsReply, SpansReply
from stream.live.books.device_book import PairRange
from stream.live.books.devices import MAX_DEVICES, MAX_RANGES, Devices, LedgerCursor
from stream.live.books.epoch_book import MAX_SKIPPED, MAX_TRIES, EpochState
from stream.pair import EncodedPair, Header
from stream.source import Cursor
from stream.stats import DeviceStats, SourceStats

log = logging.getLogger(__name__)


FORGOTTEN = "(forgotten)"
"""Under this name, which no device can have, stand the counts of devices that were forgotten."""


class Ledger:
    """Enters all messages in the order of arrival, and decides which pairs are new and which to request.

    cursor: of an earlier ledger; its pairs were delivered to the learner. Raises ValueError for anything else.
    endpoints: how many there are; messages come with the number of theirs.
    max_devices, max_epochs, max_ranges: limits for all endpoints together, see `stream.live.books.devices`. A live pair that
    would make one range too many is left out, and pulled when there is room.
    """

    def __init__(
        self,
        cursor: Cursor | None = None,
        *,
        endpoints: int = 1,
        max_devices: int = MAX_DEVICES,
        max_epochs: int = 2 * MAX_EPOCHS,
        max_ranges: int = MAX_RANGES,
    ) -> None:
        self._books = Devices(
            cursor, endpoints=endpoints, max_devices=max_devices, max_epochs=max_epochs, max_ranges=max_ranges
        )

    def receive(self, pair: EncodedPair, now_s: float, endpoint: int = 0) -> bool:
        """Enter a live pair; return False if it is to be dropped, because it was received before or there is no room for it.

        Raises MalformedMessage for a number that cannot be believed.
        """
        header = pair.header
        device, book = self._books.find(header.device, header.epoch, header.seq, now_s, endpoint)
        book.require_plausible(header.seq, MAX_SKIPPED)
        device.see_live(header, now_s)
        if book.state is EpochState.UNSPOOLED:
            book.give_up(book.known.missing(book.first, header.seq))
        return book.has_room_for(header.seq, header.seq + 1) and device.receive(book, pair)

    def deliver(self, pairs: Iterable[EncodedPair]) -> None:
        """Note that the learner has these pairs."""
        for pair in pairs:
            self._books.of[pair.header.device].deliver(pair.header)

    def spoil(self, header: Header) -> None:
        """Count a pair that the learner has, and cannot use, as lost."""
        device = self._books.of.get(header.device)
        book = device.epochs.get(header.epoch) if device is not None else None
        if book is not None:
            book.spoil(header.seq)

    def receive_announcement(self, announcement: Announcement, now_s: float, endpoint: int = 0) -> None:
        """Enter the position of a device, whether its stream has ended, and whether its missing pairs can be pulled.

        Raises MalformedMessage for a number that cannot be believed.
        """
        if not announcement.backfill:
            self._books.heard.add(endpoint)
        device, book = self._books.find(announcement.device, announcement.epoch, announcement.next_seq, now_s, endpoint)
        device.announce(book, announcement, now_s, endpoint, self._books.all_heard)

    def receive_spans(self, reply: SpansReply, endpoint: int, asked_s: float, answered_ns: int) -> None:
        """Enter which pairs the spool at an endpoint holds; all others of its epochs are lost.

        A consumer that is new to a device wants what the spool holds, and what was kept for it before: it may have gone back to
        a commit from before it met the device. Afterwards it also wants the whole of every epoch that it did not know: such an
        epoch has begun later. asked_s: when the request was sent. answered_ns: when the reply was
        received, nanoseconds since 1970.
        """
        self._books.name_at[endpoint] = reply.device
        self._books.heard.add(endpoint)
        known = self._books.of.get(reply.device)
        kept_from = reply.kept_from if known is None or not known.spool_known else None
        named = {span.epoch for span in reply.spans}
        wanted_from = {} if kept_from is None else {epoch: kept_from.get(epoch, 0) for epoch in named}
        if known is not None:
            known.hear(asked_s)
            known.dismiss_unnamed(named, endpoint, asked_s, self._books.all_heard, kept_from)
            wanted_from |= known.wanted_from(reply.spans)
        for span in reply.spans:
            _, book = self._books.find(reply.device, span.epoch, span.tail, asked_s, endpoint)
            book.first = min(book.first, wanted_from.get(span.epoch, book.first))
            book.read_span(span, endpoint, asked_s)
        if reply.spans:
            device = self._books.of[reply.device]
            device.hear(asked_s)
            device.read_spool(reply, asked_s, answered_ns)

    def receive_pairs(self, reply: PairsReply, pairs: Iterable[EncodedPair], endpoint: int) -> list[EncodedPair]:
        """Enter the pairs that the spool at an endpoint sent, all of which lie in the range of the reply.

        Of the other pairs of that range, those that the owner says are lost are so; the rest did not come whole, and is requested
        again. Returns the pairs that are new. Raises MalformedMessage for a reply to a request that cannot have been sent.
        """
        device = self._books.of.get(reply.device)
        book = device.epochs.get(reply.epoch) if device is not None else None
        if device is None or book is None or self._books.name_at.get(endpoint) != reply.device:
            raise MalformedMessage("header", f"{reply.device}/{reply.epoch[:8]} was not requested")
        if not book.has_room_for(reply.first, reply.next):
            raise MalformedMessage("header", f"{reply.device}/{reply.epoch[:8]} replies leave too many holes")
        new = [pair for pair in pairs if device.receive(book, pair)]
        if book.endpoint == endpoint:
            book.give_up_said(reply.lost)
            for seq in book.came_broken(reply.first, reply.next):
                log.warning(
                    "LOST pair=%s/%s/%d: it came broken %d times", reply.device, reply.epoch[:8], seq, MAX_TRIES
                )
        return new

    def next_request(
        self, endpoint: int, max_pairs: int, now_s: float, requested: Collection[PairRange]
    ) -> PairRange | None:
        """Return the next range to request from the spool at an endpoint, the oldest first; None if nothing is missing there.

        requested: ranges that were requested, and have no reply yet.
        """
        device = self._books.of.get(self._books.name_at.get(endpoint, ""))
        return None if device is None else device.next_request(endpoint, max_pairs, now_s, requested)

    def all_ended(self, devices: int, now_s: float = 0.0) -> bool:
        """Return whether at least `devices` devices were seen in this process, and each of them has ended its stream."""
        heard = [device for device in self._books.of.values() if device.live]
        return len(heard) >= devices and all(device.has_ended(now_s) for device in heard)

    def stats(self) -> SourceStats:
        """Return the present statistics of all devices."""
        devices = {name: device.stats() for name, device in self._books.of.items() if device.epochs}
        if self._books.forgotten:
            devices[FORGOTTEN] = DeviceStats(epoch="", next_seq=0, ended=True, **self._books.forgotten)
        return SourceStats(
            received=sum(device.received for device in devices.values()),
            bytes=sum(device.bytes for device in self._books.of.values()),
            lost=sum(device.lost for device in devices.values()),
            pending=sum(device.pending for device in devices.values()),
            repeated=sum(device.repeated for device in devices.values()),
            devices=devices,
        )

    def cursor(self) -> Cursor:
        """Return the done numbers, as JSON values: see `stream.source.Cursor`."""
        return self._books.cursor()

    def acknowledgement(self, cursor: Cursor, endpoint: int) -> dict[str, int]:
        """Return, for each epoch in the spool at an endpoint, the number below which a cursor has all pairs."""
        name = self._books.name_at.get(endpoint, "")
        device, kept = self._books.of.get(name), msgspec.convert(cursor, LedgerCursor).devices.get(name)
        return {} if device is None or kept is None else device.acknowledgement(kept, endpoint)
