"""The ledger of all devices: it records which pairs were received, which are missing, and which are lost for good.

Pure: no socket, no thread; the time is passed in. A hole is pulled if the rig has a spool, and lost at once if it has
none. The rules for an epoch are in `stream.live.books.epoch_book`, those for a device in `stream.live.books.device_book`.

Each pair is accepted once: a pair with a known number is a repetition. The done numbers are the cursor that a commit stores. The
ledger of the next process begins there, so that a pair that was lost in a queue is pulled again, and a learned one is not.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Annotated, Literal

import msgspec

from stream.errors import MalformedMessage
from stream.live.announcements import Announcement
from stream.live.backfill_messages import MAX_EPOCHS, PairsReply, SpansReply
from stream.live.books.device_book import COUNTS, DeviceBook, DeviceCursor, PairRange
from stream.live.books.epoch_book import MAX_SKIPPED, MAX_TRIES, EpochBook, EpochState, RangeBudget
from stream.live.books.forgetting import Forgetting
from stream.pair import Count, Device, EncodedPair, Header
from stream.source import Cursor
from stream.stats import DeviceStats, SourceStats

MAX_DEVICES = 1024
MAX_RANGES = 1 << 16

log = logging.getLogger(__name__)


FORGOTTEN = "(forgotten)"
"""Under this name, which no device can have, stand the counts of devices that were forgotten."""


class LedgerCursor(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The cursor of a ledger: one part for each device, and the counts of forgotten ones."""

    devices: Annotated[dict[Device, DeviceCursor], msgspec.Meta(max_length=MAX_DEVICES)]
    forgotten: Annotated[dict[str, Count], msgspec.Meta(max_length=len(COUNTS))] = {}


class Ledger:
    """Enters all messages in the order of arrival, and decides which pairs are new and which to request.

    cursor: of an earlier ledger; its pairs were delivered to the learner. Raises ValueError for anything else.
    endpoints: how many there are; messages come with the number of theirs.
    Names from the network must not take memory without end. max_devices, max_epochs: limits for all endpoints together. When one
    is reached, what is complete and gone is forgotten, then what no honest rig needs (see `Forgetting`). If there is nothing of
    the kind, the new name is refused as a malformed header. max_ranges: limit for all epochs together. A live pair that would
    make one more range is left out, and pulled when there is room. The same limit holds for lost ranges: of those beyond it, the
    oldest are only counted.
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
        self._devices: dict[str, DeviceBook] = {}
        self._endpoints = endpoints
        self._device_at: dict[int, str] = {}  # by endpoint
        self._heard: set[int] = set()  # endpoints that have said in this process what they have
        self._max_devices, self._max_epochs = max_devices, max_epochs
        self._forgotten = Counter[str]()
        self._budget = RangeBudget(max_ranges)
        self._epochs = 0
        if cursor is not None:
            try:
                kept = msgspec.convert(cursor, LedgerCursor)
            except msgspec.ValidationError as error:
                raise ValueError(f"this is not the cursor of a live stream ({error})") from error
            self._devices = {name: DeviceBook.restore(one, self._budget) for name, one in kept.devices.items()}
            self._epochs = sum(len(device.epochs) for device in self._devices.values())
            self._forgotten.update(kept.forgotten)

    def receive(self, pair: EncodedPair, now_s: float, endpoint: int = 0) -> bool:
        """Enter a live pair; return False if it is to be dropped, because it was received before or there is no room for it.

        Raises MalformedMessage for a number that cannot be believed.
        """
        header = pair.header
        device, book = self._find(header.device, header.epoch, header.seq, now_s, endpoint)
        book.require_plausible(header.seq, MAX_SKIPPED)
        device.see_live(header, now_s)
        if book.state is EpochState.UNSPOOLED:
            book.give_up(book.known.missing(book.first, header.seq))
        return book.has_room_for(header.seq, header.seq + 1) and device.receive(book, pair)

    def deliver(self, pairs: Iterable[EncodedPair]) -> None:
        """Note that the learner has these pairs."""
        for pair in pairs:
            self._devices[pair.header.device].deliver(pair.header)

    def spoil(self, header: Header) -> None:
        """Count a pair that the learner has, and cannot use, as lost."""
        device = self._devices.get(header.device)
        book = device.epochs.get(header.epoch) if device is not None else None
        if book is not None:
            book.spoil(header.seq)

    def receive_announcement(self, announcement: Announcement, now_s: float, endpoint: int = 0) -> None:
        """Enter the position of a device, whether its stream has ended, and whether its missing pairs can be pulled.

        Raises MalformedMessage for a number that cannot be believed.
        """
        if not announcement.backfill:
            self._heard.add(endpoint)
        device, book = self._find(announcement.device, announcement.epoch, announcement.next_seq, now_s, endpoint)
        device.announce(book, announcement, now_s, endpoint, self._all_heard())

    def receive_spans(self, reply: SpansReply, endpoint: int, asked_s: float, answered_ns: int) -> None:
        """Enter which pairs the spool at an endpoint holds; all others of its epochs are lost.

        A consumer that is new to a device wants what the spool holds, and what was kept for it before: it may have gone back to
        a commit from before it met the device. Afterwards it also wants the whole of every epoch that it did not know: such an
        epoch has begun later. asked_s: when the request was sent. answered_ns: when the reply was
        received, nanoseconds since 1970.
        """
        self._device_at[endpoint] = reply.device
        self._heard.add(endpoint)
        known = self._devices.get(reply.device)
        kept_from = reply.kept_from if known is None or not known.spool_known else None
        named = {span.epoch for span in reply.spans}
        wanted_from = {} if kept_from is None else {epoch: kept_from.get(epoch, 0) for epoch in named}
        if known is not None:
            known.dismiss_unnamed(named, endpoint, asked_s, self._all_heard(), kept_from)
            wanted_from |= known.wanted_from(reply.spans)
        for span in reply.spans:
            _, book = self._find(reply.device, span.epoch, span.tail, asked_s, endpoint)
            book.first = min(book.first, wanted_from.get(span.epoch, book.first))
            book.read_span(span, endpoint, asked_s)
        if reply.spans:
            self._devices[reply.device].read_spool(reply, asked_s, answered_ns)

    def receive_pairs(self, reply: PairsReply, pairs: Iterable[EncodedPair], endpoint: int) -> list[EncodedPair]:
        """Enter the pairs that the spool at an endpoint sent, all of which lie in the range of the reply.

        Of the other pairs of that range, those that the owner says are lost are so; the rest did not come whole, and is requested
        again. Returns the pairs that are new. Raises MalformedMessage for a reply to a request that cannot have been sent.
        """
        device = self._devices.get(reply.device)
        book = device.epochs.get(reply.epoch) if device is not None else None
        if device is None or book is None or self._device_at.get(endpoint) != reply.device:
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
        device = self._devices.get(self._device_at.get(endpoint, ""))
        return None if device is None else device.next_request(endpoint, max_pairs, now_s, requested)

    def all_ended(self, devices: int, now_s: float = 0.0) -> bool:
        """Return whether at least `devices` devices were seen in this process, and each of them has ended its stream."""
        heard = [device for device in self._devices.values() if device.live]
        return len(heard) >= devices and all(device.has_ended(now_s) for device in heard)

    def stats(self) -> SourceStats:
        """Return the present statistics of all devices."""
        devices = {name: device.stats() for name, device in self._devices.items() if device.epochs}
        if self._forgotten:
            devices[FORGOTTEN] = DeviceStats(epoch="", next_seq=0, ended=True, **self._forgotten)
        return SourceStats(
            received=sum(device.received for device in devices.values()),
            bytes=sum(device.bytes for device in self._devices.values()),
            lost=sum(device.lost for device in devices.values()),
            pending=sum(device.pending for device in devices.values()),
            repeated=sum(device.repeated for device in devices.values()),
            devices=devices,
        )

    def cursor(self) -> Cursor:
        """Return the done numbers, as JSON values: see `stream.source.Cursor`."""
        devices = {name: device.cursor() for name, device in self._devices.items()}
        return dict(msgspec.to_builtins(LedgerCursor(devices=devices, forgotten=dict(self._forgotten))))

    def acknowledgement(self, cursor: Cursor, endpoint: int) -> dict[str, int]:
        """Return, for each epoch in the spool at an endpoint, the number below which a cursor has all pairs."""
        name = self._device_at.get(endpoint, "")
        device, kept = self._devices.get(name), msgspec.convert(cursor, LedgerCursor).devices.get(name)
        return {} if device is None or kept is None else device.acknowledgement(kept, endpoint)

    def _all_heard(self) -> bool:
        return len(self._heard) >= self._endpoints

    def _find(self, name: str, epoch: str, seq: int, now_s: float, endpoint: int) -> tuple[DeviceBook, EpochBook]:
        """Return a device and its epoch, new ones if they are not known yet.

        A new epoch begins at `seq`, or at 0 if this consumer wants its earlier pairs too.
        """
        device = self._devices.get(name)
        if (device is None or epoch not in device.epochs) and self._epochs >= self._max_epochs:
            self._make_room("epochs", self._max_epochs)
            device = self._devices.get(name)
        if device is None:
            if len(self._devices) >= self._max_devices:
                self._make_room("devices", self._max_devices)
            device = self._devices[name] = DeviceBook()
        book = device.epochs.get(epoch)
        if book is None:
            first = 0 if device.spool_known else seq
            book = EpochBook(self._budget, device.counts, first=first, head=seq, since_s=now_s, speaker=endpoint)
            device.epochs[epoch] = book
            self._epochs += 1
        return device, book

    def _make_room(self, what: Literal["epochs", "devices"], limit: int) -> None:
        """Forget what is needed least. Raises MalformedMessage if everything is needed."""
        crowd = Forgetting(self._devices, self._device_at, limit // (2 * self._endpoints), all_heard=self._all_heard())
        names = crowd.epochs_to_forget() if what == "epochs" else crowd.devices_to_forget()
        if not names:
            raise MalformedMessage("header", f"there are more than {limit} {what}")
        for name, epoch in names:
            self._devices[name].forget(epoch)
        self._epochs -= len(names)
        empty = [name for name, device in self._devices.items() if not device.epochs]
        for name in empty:
            self._forgotten.update(+self._devices.pop(name).counts)
