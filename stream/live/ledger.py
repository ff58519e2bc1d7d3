"""The account of what came from each rig: which pairs are here, which are to be pulled, which are lost for good.

Pure: no socket, no thread; the time is passed in. For every epoch of every rig it keeps ranges of numbers. A number is
*known* once its pair came or is lost for good, and *done* once its pair was given to the learner or is lost for good. What
is not known below the head is a hole: to be pulled where the rig has a spool, lost at once where it has none.

A pair is accepted once: what is known already is a repetition. What is done is the cursor that a commit keeps; on it the
account of the next process begins, so that a pair which died in a queue is pulled again and one that was learned is not.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from stream.errors import MalformedMessage
from stream.live.announcements import Bye, Hello, Position
from stream.live.backfill_messages import MAX_EPOCHS, Device, Epoch, Gave, Here, Seq, Span, Vitals
from stream.pair import EncodedPair, Header
from stream.ranges import Ranges
from stream.source import Cursor
from stream.stats import DeviceStats, SourceStats

MAX_DEVICES = 1024
"""A device further is refused as a malformed header: a name on the network must not take memory without end."""
MAX_RANGES = 1 << 16
"""Of all epochs together. A live pair that would make one more is left out, and pulled when holes before it are filled.
Of as many lost ranges it is known which pairs they were; then the oldest ones are only counted."""
SETTLED_S = 0.3
"""What the rig has beyond the last live pair is pulled only after so long a silence: it may be on its way."""

log = logging.getLogger(__name__)

_GIVEN = ("received", "suppressed", "junk")
"""Counts of which a cursor keeps what belongs to pairs given to the learner."""
_COUNTS = (*_GIVEN, "lost", "returned", "repeated", "clock_steps")
_MAX_COUNT = (1 << 63) - 1
"""In a cursor; what a rig says must not make one that cannot be read again."""


class _KeptBook(msgspec.Struct, forbid_unknown_fields=True):
    """An epoch in a cursor."""

    joined: Seq
    head: Seq
    done: list[tuple[Seq, Seq]]
    lost: list[tuple[Seq, Seq]]
    gone: bool


class _KeptDevice(msgspec.Struct, forbid_unknown_fields=True):
    """A device in a cursor."""

    epochs: Annotated[dict[Epoch, _KeptBook], msgspec.Meta(max_length=2 * MAX_EPOCHS)]
    counts: Annotated[dict[str, Seq], msgspec.Meta(max_length=len(_COUNTS))]
    met: bool


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """A cursor."""

    devices: Annotated[dict[Device, _KeptDevice], msgspec.Meta(max_length=MAX_DEVICES)]


@dataclass(slots=True)
class _Book:
    """One epoch of one device."""

    joined: int
    """The first number that is ours to have."""
    head: int
    """One past the largest number known to exist."""
    heard_s: float
    known: Ranges = field(default_factory=Ranges)
    done: Ranges = field(default_factory=Ranges)
    lost: Ranges = field(default_factory=Ranges)
    closed: bool = False
    """Nothing from `head` on will ever exist."""
    place: int | None = None
    """The endpoint whose spool named this epoch."""
    pulled: bool = True
    """Whether its holes can be pulled, or are to be: there is no spool only where a hello or bye says so."""
    left: bool = False
    """Another epoch was published after it."""
    gone: bool = False
    """No spool has it any more: nobody will speak of it again."""

    def holes(self, upto: int | None = None) -> Iterator[tuple[int, int]]:
        return self.known.missing(self.joined, self.head if upto is None else min(upto, self.head))

    def complete(self) -> bool:
        """Nothing of it is missing, or waits to be given."""
        return self.done == self.known and not any(self.holes())


@dataclass(slots=True)
class _Device:
    """What is known of one device."""

    books: dict[str, _Book] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    given: Counter[str] = field(default_factory=Counter)
    """The counts of _GIVEN, of those pairs."""
    live: str = ""
    """The epoch that is published now; empty until this process has heard of one."""
    met: bool = False
    """Its spool has said which epochs there are: any other one began later, so all of it is ours."""
    shared: bool = False
    last: Header | None = None
    last_live_s: float | None = None
    clock: tuple[int, int] | None = None
    vitals: Vitals = field(default_factory=Vitals)

    def pending(self) -> int:
        return sum(last - first for book in self.books.values() for first, last in book.holes())

    def ended(self) -> bool:
        book = self.books.get(self.live)
        if book is None or not book.closed or (book.pulled and book.place is None):
            return False  # where there is a spool, only that knows what else there is
        return not self.pending()


class Account:
    """Takes note of everything that came, in its order, and says which pairs are new and which to ask for.

    cursor: of an earlier account; what it names was given to the learner. Raises ValueError where it is none.
    """

    def __init__(self, cursor: Cursor | None = None) -> None:
        self._devices: dict[str, _Device] = {}
        self._places: dict[int, str] = {}  # endpoint -> the device that answers there
        self._malformed: Counter[str] = Counter()
        self._bytes = 0
        self._ranges = 0
        self._lost_ranges = 0
        self._books = 0
        if cursor is not None:
            self._restore(cursor)

    def pair(self, pair: EncodedPair, now_s: float) -> bool:
        """Take note of a live pair; False where it came before and is to be dropped."""
        header = pair.header
        device, book = self._find(header.device, header.epoch, header.seq, now_s)
        self._heard_live(device, header, now_s)
        if not book.pulled:
            self._give_up(device, book, book.known.missing(book.joined, header.seq))
        return self._fits(book, header.seq, header.seq + 1) and self._enter(device, book, pair)

    def given(self, pairs: Iterable[EncodedPair]) -> None:
        """These accepted pairs are in the learner's hands."""
        for pair in pairs:
            header = pair.header
            device = self._devices[header.device]
            device.books[header.epoch].done.add(header.seq, header.seq + 1)
            device.given.update(received=1, suppressed=header.suppressed, junk=header.junk)

    def hello(self, hello: Hello, now_s: float) -> None:
        """Take note of where a device is, and whether what is missing can be pulled."""
        device, book = self._position(hello, now_s)
        self._give_up_unspooled(device, book)

    def bye(self, bye: Bye, now_s: float) -> None:
        """Take note that a device has sent all it will send in this epoch."""
        device, book = self._position(bye, now_s)
        book.closed = True
        self._give_up_unspooled(device, book)

    def here(self, here: Here, place: int, asked_s: float, answered_ns: int) -> None:
        """Take note of what the spool at an endpoint holds, as it answered to what was asked at `asked_s`.

        What it does not hold any more is lost. Of an epoch that it does not name all is, but for epochs of another
        endpoint's spool (two rigs of one name) and those heard of since it was asked.
        """
        self._places[place] = here.device
        named = {span.epoch: None for span in here.spans}
        known = self._devices.get(here.device)
        if known is not None:
            self._give_up_unnamed(known, named, place, asked_s)
        for span in here.spans:
            self._take_span(here.device, span, place, asked_s)
        device = self._devices.get(here.device)
        if device is None or not named:
            return
        live = device.books.get(device.live)
        if live is None or device.live in named or live.heard_s < asked_s:
            *_, device.live = named
        device.books = {epoch: device.books[epoch] for epoch in (*named, *device.books)}  # the oldest is pulled first
        device.met = True
        device.clock = (here.now_ns - (here.asked_ns + answered_ns) // 2, max(0, answered_ns - here.asked_ns) // 2)
        device.vitals = here.vitals

    def gave(self, gave: Gave, pairs: Iterable[EncodedPair], place: int) -> list[EncodedPair]:
        """Take note of the answer of the spool at an endpoint, all of whose `pairs` lie in its range.

        What it does not bring of the range is lost. Returns the pairs that are new. Raises MalformedMessage where it
        cannot have been asked for.
        """
        device = self._devices.get(gave.device)
        book = device.books.get(gave.epoch) if device is not None else None
        if device is None or book is None or self._places.get(place) != gave.device:
            raise MalformedMessage("header", f"{gave.device}/{gave.epoch[:8]} was not asked for")
        if not self._fits(book, gave.first, gave.next):
            raise MalformedMessage("header", f"{gave.device}/{gave.epoch[:8]} answers leave too many holes")
        new = [pair for pair in pairs if self._enter(device, book, pair)]
        self._give_up(device, book, book.known.missing(gave.first, min(gave.next, book.head)))
        return new

    def malformed(self, reason: str) -> None:
        """Count a message that was dropped."""
        self._malformed[reason] += 1

    def wanted(
        self, place: int, limit: int, now_s: float, asked: Mapping[str, Sequence[tuple[int, int]]]
    ) -> tuple[str, int, int] | None:
        """The next range to ask of the spool at an endpoint: epoch, first, last, at most `limit` pairs; None: nothing.

        asked: ranges by epoch that were asked for and not answered yet. The oldest hole comes first.
        """
        device = self._devices.get(self._places.get(place, ""))
        if device is None:
            return None
        flowing = device.last_live_s is not None and now_s - device.last_live_s < SETTLED_S
        for epoch, book in device.books.items():
            if book.place != place:
                continue
            upto = book.known.end if flowing and epoch == device.live else None
            under_way = Ranges(asked.get(epoch, ()))
            for hole in book.holes(upto):
                for first, last in under_way.missing(*hole):
                    return epoch, first, min(last, first + limit)
        return None

    def all_ended(self, devices: int) -> bool:
        """Whether at least so many devices came in this process and each of them has ended."""
        heard = [device for device in self._devices.values() if device.live]
        return len(heard) >= devices and all(device.ended() for device in heard)

    def stats(self) -> SourceStats:
        """The account as of now."""
        devices = {name: _stats(device) for name, device in self._devices.items() if device.books}
        return SourceStats(
            received=sum(device.received for device in devices.values()),
            bytes=self._bytes,
            lost=sum(device.lost for device in devices.values()),
            pending=sum(device.pending for device in devices.values()),
            repeated=sum(device.repeated for device in devices.values()),
            malformed=dict(self._malformed),
            devices=devices,
        )

    def cursor(self) -> Cursor:
        """What is done, as JSON values: see `stream.source.Cursor`."""
        kept = {
            name: _KeptDevice(
                epochs={epoch: _keep(book) for epoch, book in device.books.items()},
                counts={
                    name: min((device.given if name in _GIVEN else device.counts)[name], _MAX_COUNT) for name in _COUNTS
                },
                met=device.met,
            )
            for name, device in self._devices.items()
        }
        builtins: Cursor = msgspec.to_builtins(_Kept(devices=kept))
        return builtins

    def acknowledgement(self, cursor: Cursor, place: int) -> dict[str, int]:
        """What can be acknowledged at an endpoint of what a cursor names: for each epoch, all below a number."""
        name = self._places.get(place, "")
        device, kept = self._devices.get(name), msgspec.convert(cursor, _Kept).devices.get(name)
        if device is None or kept is None:
            return {}
        there = {epoch: book for epoch, book in device.books.items() if book.place == place and not book.gone}
        return {  # from where it begins by now: the spool may have told of pairs before those that the cursor knew of
            epoch: Ranges(book.done).reach(there[epoch].joined) for epoch, book in kept.epochs.items() if epoch in there
        }

    def _find(self, name: str, epoch: str, seq: int, now_s: float) -> tuple[_Device, _Book]:
        """The device and its book of an epoch; a new one begins at `seq`, or at 0 where we would have had what came before."""
        device = self._devices.get(name)
        if device is None:
            if len(self._devices) >= MAX_DEVICES:
                raise MalformedMessage("header", f"{name} is one device more than the {MAX_DEVICES} that are followed")
            device = self._devices[name] = _Device()
        book = device.books.get(epoch)
        if book is None:
            self._make_room()
            book = device.books[epoch] = _Book(joined=0 if device.met else seq, head=seq, heard_s=now_s)
            self._books += 1
        return device, book

    def _make_room(self) -> None:
        """Forget the oldest epoch that is over and that nobody will speak of again, where there are too many of them."""
        if self._books < 2 * MAX_EPOCHS:
            return
        for device in self._devices.values():
            for epoch, book in device.books.items():
                if book.gone and epoch != device.live and book.complete():
                    self._ranges -= len(book.known)
                    self._lost_ranges -= len(book.lost)
                    self._books -= 1
                    del device.books[epoch]
                    return
        raise MalformedMessage("header", f"there are more than {2 * MAX_EPOCHS} epochs")

    def _position(self, position: Position, now_s: float) -> tuple[_Device, _Book]:
        """What a device says of its own position in the epoch that it publishes."""
        device, book = self._find(position.device, position.epoch, position.next_seq, now_s)
        device.live, book.pulled, book.head = position.epoch, position.backfill, max(book.head, position.next_seq)
        return device, book

    def _give_up_unspooled(self, device: _Device, book: _Book) -> None:
        """Where a rig has no spool, nothing that is missing will come: of its earlier epochs neither."""
        if book.pulled:
            return
        for other in device.books.values():
            if other is book or other.place is None:
                other.gone = other is not book
                self._give_up(device, other, other.holes())

    def _take_span(self, name: str, span: Span, place: int, asked_s: float) -> None:
        device, book = self._find(name, span.epoch, span.tail, asked_s)
        book.joined = min(book.joined, span.tail)  # what was heard live before may not have been the first there is
        book.place, book.pulled, book.gone, book.head = place, True, False, max(book.head, span.head)
        self._give_up(device, book, book.known.missing(book.joined, span.tail))
        if not span.open:
            book.closed = True
            self._give_up(device, book, book.known.missing(span.head, book.head))

    def _give_up_unnamed(self, device: _Device, named: Container[str], place: int, asked_s: float) -> None:
        for epoch, book in device.books.items():
            if epoch not in named and book.place in (None, place) and book.heard_s < asked_s:
                book.closed = book.gone = True
                self._give_up(device, book, book.holes())

    def _fits(self, book: _Book, first: int, last: int) -> bool:
        """Whether [first, last) can become known within MAX_RANGES: it touches what is known, or there is room."""
        touches = first <= book.joined or first - 1 in book.known or last in book.known
        return touches or self._ranges < MAX_RANGES

    def _enter(self, device: _Device, book: _Book, pair: EncodedPair) -> bool:
        """Enter a pair; False where it came before."""
        header = pair.header
        seq, end = header.seq, header.seq + 1
        late = seq in book.lost  # it was given up, and comes all the same
        if seq in book.known and not late:
            device.counts["repeated"] += 1
            return False
        before = len(book.known), len(book.lost)
        if late:
            book.lost.remove(seq, end)
            book.done.remove(seq, end)
            device.counts["lost"] -= 1
            device.counts["returned"] += 1
        book.head = max(book.head, end)
        book.known.add(seq, end)
        self._count_ranges(book, before)
        self._bytes += len(pair.left) + len(pair.right)
        device.counts.update(received=1, suppressed=header.suppressed, junk=header.junk)
        return True

    def _heard_live(self, device: _Device, header: Header, now_s: float) -> None:
        """What a live pair tells of its device: its epoch, its clock, and that it is there."""
        last = device.last
        if last is not None and last.epoch == header.epoch:
            device.counts["clock_steps"] += header.seq == last.seq + 1 and header.left_ns < last.left_ns
        elif last is not None:
            if last.epoch in device.books:
                device.books[last.epoch].left = True
            if device.books[header.epoch].left and not device.shared:
                device.shared = True  # a device that starts anew never comes back to an old epoch; two of one name do
                log.warning("two devices are named %s: give each a --name of its own", header.device)
        device.live, device.last, device.last_live_s = header.epoch, header, now_s

    def _give_up(self, device: _Device, book: _Book, holes: Iterable[tuple[int, int]]) -> None:
        """These numbers will never come."""
        for first, last in list(holes):
            before = len(book.known), len(book.lost)
            device.counts["lost"] += book.known.add(first, last)
            book.done.add(first, last)
            book.lost.add(first, last)
            self._count_ranges(book, before)

    def _count_ranges(self, book: _Book, before: tuple[int, int]) -> None:
        """After a change: how many there are by now; of too many lost ones the oldest lose their name, not their count."""
        self._ranges += len(book.known) - before[0]
        self._lost_ranges += len(book.lost) - before[1]
        while self._lost_ranges > MAX_RANGES and len(book.lost):
            book.lost.remove(*next(iter(book.lost)))
            self._lost_ranges -= 1

    def _restore(self, cursor: Cursor) -> None:
        try:
            kept = msgspec.convert(cursor, _Kept)
        except msgspec.ValidationError as error:
            raise ValueError(f"this is not the cursor of a live stream ({error})") from error
        for name, device in kept.devices.items():
            books = {epoch: _book(book) for epoch, book in device.epochs.items()}
            counts = Counter(device.counts)
            counts["lost"] = max(counts["lost"], sum(book.lost.count for book in books.values()))
            self._devices[name] = _Device(books=books, counts=counts, given=counts.copy(), met=device.met)
            self._ranges += sum(len(book.known) for book in books.values())
            self._lost_ranges += sum(len(book.lost) for book in books.values())
            self._books += len(books)


def _keep(book: _Book) -> _KeptBook:
    return _KeptBook(joined=book.joined, head=book.head, done=list(book.done), lost=list(book.lost), gone=book.gone)


def _book(kept: _KeptBook) -> _Book:
    done, lost = Ranges(kept.done), Ranges(kept.lost)
    if done.end > kept.head or any(done.overlap(first, last) < last - first for first, last in lost):
        raise ValueError("this is not the cursor of a live stream (it contradicts itself)")
    return _Book(
        joined=kept.joined,
        head=kept.head,
        heard_s=float("-inf"),
        known=done.copy(),
        done=done,
        lost=lost,
        gone=kept.gone,
    )


def _stats(device: _Device) -> DeviceStats:
    epoch = device.live or next(reversed(device.books))
    offset_ns, error_ns = device.clock or (None, None)
    return DeviceStats(
        epoch=epoch,
        next_seq=device.books[epoch].head,
        pending=device.pending(),
        clock_offset_ns=offset_ns,
        clock_error_ns=error_ns,
        battery=device.vitals.battery,
        temperature_c=device.vitals.temperature_c,
        ended=device.ended(),
        last_received_s=device.last_live_s,
        **{name: device.counts[name] for name in _COUNTS},
    )
