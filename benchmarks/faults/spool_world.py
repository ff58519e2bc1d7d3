"""A rig's spool and its consumers, without files, threads and clocks: does every consumer know which pairs it will not get?

The real rules (`device.spool.rules`) work on a disk of plain values. Consumers have cursors, and behave as the ledger does: what
a reply names and they do not have, they enter or count as lost. Every fault is one call, so that a core tries some thousand in a
second. `play` makes the faults from a seed; a test makes them from a list of its own.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from device.spool.consumers import RETRY_SAVE_S, Consumers, SavedConsumers
from device.spool.inventory import EarlierEpoch, Inventory, joined
from device.spool.rules import SpoolLimits, SpoolRules
from device.spool.segment import Removal, Segment, Size, State
from stream.live.backfill_messages import Span
from stream.ranges import Ranges

PAIR_BYTES = 100
SEGMENT_PAIRS = 5
LIMITS = SpoolLimits(
    max_bytes=16 * SEGMENT_PAIRS * PAIR_BYTES, free_floor_bytes=0, segment_bytes=SEGMENT_PAIRS * PAIR_BYTES
)
WEEK_S = 7 * 86400.0
GRACE_S = 60.0
FREE_BYTES = 1 << 40
WAITS_S = (1.0, 59.0, 600.0, 86400.0, 8 * 86400.0)
ACTIONS = (
    "append",
    "append_many",
    "meet",
    "commit",
    "kill_consumer",
    "roll_back",
    "copy",
    "acknowledge_for_another",
    "invent_names",
    "wait",
    "restart",
    "kill_rig",
    "cut_power",
    "set_clock",
    "damage_list",
    "damage_end",
    "delete_end",
    "refuse_saving",
)
"""Everything that can happen; each takes a number to play with."""
CALM = ("append", "append_many", "meet", "commit", "kill_consumer", "invent_names", "restart", "kill_rig", "set_clock")
"""What costs no consumer that has acknowledged a pair anything, while the card has room; with keys also a stranger who
acknowledges in its name."""


@dataclass
class Book:
    """A cursor: which pairs of each epoch a consumer has, and which it counts as lost."""

    first: dict[str, int] = field(default_factory=dict)
    """By epoch, the first pair that the consumer wants."""
    entered: dict[str, Ranges] = field(default_factory=dict)
    lost: dict[str, Ranges] = field(default_factory=dict)
    since: int | None = None
    """Number of epochs at its first contact with the rig; of those that began later it wants every pair."""

    def copy(self) -> Book:
        """Return a copy that shares nothing."""
        return Book(
            dict(self.first),
            {epoch: Ranges(one) for epoch, one in self.entered.items()},
            {epoch: Ranges(one) for epoch, one in self.lost.items()},
            self.since,
        )


@dataclass
class Consumer:
    """A learner or a recorder with its durable cursors, the newest last."""

    name: str
    key: str | None
    book: Book = field(default_factory=Book)
    durable: list[Book] = field(default_factory=lambda: [Book()])


class World:
    """One rig, its disk, and its consumers. keys: whether the rig has keys, so that names have owners."""

    def __init__(self, *, keys: bool = False, limits: SpoolLimits = LIMITS) -> None:
        self._limits, self._keys = limits, keys
        self.now_s = 0.0
        self.epochs: dict[str, int] = {}
        """Every epoch in the order of their beginning, and the number of its pairs."""
        self.refuses_saving = False
        self._segments: list[Segment] = []
        self._ends: dict[str, EarlierEpoch] = {}
        self._synced_end = 0
        self._saved = SavedConsumers()
        self.consumers = [self._consumer(f"learner-{number}") for number in range(2)]
        self._start()

    def act(self, action: str, number: int) -> None:
        """Let something happen."""
        getattr(self, action)(number)

    # The rig

    def append(self, _: int) -> None:
        """The rig keeps a pair."""
        epoch, seq = self.inventory.epoch, self.inventory.end
        enough, removal = self.rules.make_room(PAIR_BYTES, FREE_BYTES, self.now_s)
        self._remove(removal)
        assert enough, "there is no room on an empty card"
        if not self.rules.fits_open(seq, PAIR_BYTES):
            self._remove(self.rules.close_open())
            segment = Segment(self.inventory.run, epoch, first=seq, end=seq, state=State.OPEN)
            self.rules.begin(segment)
            self._segments.append(segment)
            while (full := self.rules.next_to_seal()) is not None:
                self.rules.sealed(full, State.SEALED, Size(full.size.disk_bytes, 0))
        segment = self._segments[-1]
        size_bytes = (segment.end - segment.first + 1) * PAIR_BYTES
        self.rules.appended(segment, Size(size_bytes, size_bytes))
        self.rules.offered(seq, spooled=True)
        self.epochs[epoch] = seq + 1
        self._ends[epoch] = EarlierEpoch(self.inventory.run, seq + 1)
        self._save()

    def append_many(self, number: int) -> None:
        """The rig keeps so many pairs that the oldest are evicted now and then."""
        for _ in range(3 * SEGMENT_PAIRS * (1 + number % 3)):
            self.append(0)

    def restart(self, _: int) -> None:
        """The rig is stopped and started."""
        self._stop()
        self._start()

    def kill_rig(self, _: int) -> None:
        """kill -9."""
        self._start()

    def cut_power(self, number: int) -> None:
        """The last pairs were not synced, and neither was the file with the end of the epoch."""
        epoch = self.inventory.epoch
        segment = self.rules.open
        if segment is not None:
            segment.end = max(segment.first, segment.end - number % 3)
            self.epochs[epoch] = segment.end
            if segment.empty:
                self._segments.remove(segment)
        if epoch in self._ends:
            self._ends[epoch] = EarlierEpoch(self.inventory.run, self._synced_end)
        if not any(segment.epoch == epoch for segment in self._segments):
            self.epochs[epoch] = min(self.epochs[epoch], self._synced_end)
        self._start()

    def set_clock(self, _: int) -> None:
        """The machine starts anew: its monotonic clock begins at 0, and its time of day is anything."""
        self._start(now_s=0.0)

    def wait(self, number: int) -> None:
        """Time passes while the rig is up."""
        self.now_s += WAITS_S[number % len(WAITS_S)]
        self._save()

    def damage_list(self, _: int) -> None:
        """consumers.json is damaged while the rig is off."""
        self._settle()
        self._saved = SavedConsumers()
        self._start()
        self._settle()

    def damage_end(self, number: int) -> None:
        """One .head file is damaged while the rig is off."""
        self._settle()
        if number % 2:
            self._stop()
        if self._ends:
            epoch = list(self._ends)[number % len(self._ends)]
            self._ends[epoch] = EarlierEpoch(self._ends[epoch].run, 0)
        self._start()
        self._settle()

    def delete_end(self, number: int) -> None:
        """One .head file is deleted while the rig is off."""
        self._settle()
        if number % 2:
            self._stop()
        if self._ends:
            del self._ends[list(self._ends)[number % len(self._ends)]]
        self._start()
        self._settle()

    def refuse_saving(self, number: int) -> None:
        """The disk refuses consumers.json for a while, or no longer."""
        self.refuses_saving = bool(number % 2)

    # The consumers

    def meet(self, number: int) -> None:
        """A consumer asks what there is, and takes it."""
        one = self._one(number)
        self._acknowledge(one.name, {}, one.key)
        spans = self.inventory.spans(freed=True)
        if one.book.since is None:
            for span in spans:
                one.book.first[span.epoch] = span.tail
            one.book.since = len(self.epochs)
        for span in spans:
            self._take(one.book, span)

    def commit(self, number: int) -> None:
        """A consumer makes durable what it has, and acknowledges it."""
        one = self._one(number)
        one.durable.append(one.book.copy())
        upto = {}
        for epoch, entered in one.book.entered.items():
            done = Ranges([*entered, *one.book.lost[epoch]])
            upto[epoch] = done.reach(one.book.first[epoch])
        self._acknowledge(one.name, upto, one.key)

    def kill_consumer(self, number: int) -> None:
        """A consumer goes on from its newest cursor."""
        one = self._one(number)
        one.book = one.durable[-1].copy()

    def roll_back(self, number: int) -> None:
        """A consumer goes on from an earlier cursor: a backup, or the commit before a damaged one."""
        one = self._one(number)
        del one.durable[1 + number % len(one.durable) :]
        one.book = one.durable[-1].copy()

    def copy(self, number: int) -> None:
        """The directory of a run is copied, and the copy goes on beside it, with the same name."""
        if len(self.consumers) < 4:
            one = self._one(number)
            self.consumers.append(Consumer(one.name, one.key, one.durable[-1].copy(), [*one.durable]))

    def acknowledge_for_another(self, number: int) -> None:
        """A stranger acknowledges everything in the name of a consumer; with keys, under a key of its own."""
        self._acknowledge(self._one(number).name, dict(self.epochs), "stranger" if self._keys else None)

    def invent_names(self, number: int) -> None:
        """A stranger asks under names that nobody has."""
        for invented in range(20):
            self._acknowledge(f"invented-{number}-{invented}", {}, "stranger" if self._keys else None)

    # What must hold

    def check(self) -> None:
        """Every consumer meets the rig. Then it has, or counts as lost, each pair that it was to receive."""
        self.now_s += GRACE_S
        for number, one in enumerate(self.consumers):
            if one.book.since is None:
                continue
            self.meet(number)
            for epoch, end in self.epochs.items():
                self._check_epoch(one, epoch, end)

    def lost(self) -> int:
        """Return the number of pairs that consumers count as lost."""
        return sum(lost.count for one in self.consumers for lost in one.book.lost.values())

    def _check_epoch(self, one: Consumer, epoch: str, end: int) -> None:
        book = one.book
        began = list(self.epochs).index(epoch)
        assert book.since is not None
        first = book.first.get(epoch, 0 if began >= book.since else end)
        entered, lost = book.entered.get(epoch, Ranges()), book.lost.get(epoch, Ranges())
        assert all(not entered.overlap(*range_) for range_ in lost), "a pair is both entered and lost"
        silent = list(Ranges([*entered, *lost]).missing(first, end))
        assert not silent, f"{one.name} is not told of {silent} of epoch {began}, which has {end} pairs"
        there = [segment for segment in self._segments if segment.epoch == epoch]
        assert not any(lost.overlap(segment.first, segment.end) for segment in there), "a pair is lost and in the spool"

    # Details

    @property
    def inventory(self) -> Inventory:
        """The inventory of the process that runs."""
        return self.rules.inventory

    def _consumer(self, name: str) -> Consumer:
        return Consumer(name, f"key-of-{name}" if self._keys else None)

    def _one(self, number: int) -> Consumer:
        return self.consumers[number % len(self.consumers)]

    def _take(self, book: Book, span: Span) -> None:
        """Enter the pairs of a span that the consumer lacks, and count those that are not there."""
        epoch = span.epoch
        entered, lost = book.entered.setdefault(epoch, Ranges()), book.lost.setdefault(epoch, Ranges())
        first = book.first.setdefault(epoch, 0)
        for hole in list(Ranges([*entered, *lost]).missing(first, span.head)):
            plan, known_end = self.inventory.plan_read(epoch, *hole)
            lost.add(hole[0], known_end)
            for segment, end in plan:
                a, b = max(segment.first, hole[0]), min(end, hole[1])
                lost.remove(a, b)
                entered.add(a, b)

    def _acknowledge(self, name: str, upto: dict[str, int], key: str | None) -> None:
        _, removal = self.rules.acknowledge(name, upto, self.now_s, key)
        self._remove(removal)
        self._save()

    def _start(self, now_s: float | None = None) -> None:
        """A new process finds what the last one left."""
        self.now_s = self.now_s if now_s is None else now_s
        self._segments = [segment for segment in self._segments if not segment.empty]
        for segment in self._segments:
            segment.state, segment.size = State.SEALED, Size(segment.size.disk_bytes, 0)
        for segment in {segment.epoch: segment for segment in self._segments}.values():
            segment.extend(self._ends[segment.epoch].end if segment.epoch in self._ends else 0)
        earlier = joined(self._ends, self._saved.epochs)
        runs = [segment.run for segment in self._segments] + [one.run for one in earlier.values()]
        epoch, run = f"{len(self.epochs):032x}", 1 + max(runs, default=0)
        self.epochs[epoch] = self._synced_end = 0
        saved = msgspec.convert(
            msgspec.to_builtins(self._saved), SavedConsumers
        )  # nothing is shared with the last process
        consumers = Consumers(saved, now_s=self.now_s, forget_after_s=WEEK_S, grace_s=GRACE_S)
        self.rules = SpoolRules(self._limits, Inventory(epoch, self._segments, earlier, run=run), consumers)
        for name, one in self.inventory.emptied().items():
            self._ends[name] = EarlierEpoch(one.run, one.end)
        self._remove(self.rules.free(self.now_s))
        self._save()

    def _stop(self) -> None:
        """The process closes the spool."""
        self._remove(self.rules.close_open() + self.rules.free(self.now_s))
        self._save()

    def _settle(self) -> None:
        """The disk takes what waits to be saved: files are damaged one by one, and each one is written anew from the others."""
        self.refuses_saving = False
        self.now_s += RETRY_SAVE_S
        self._save()

    def _remove(self, removal: Removal) -> None:
        for run, epoch, end in removal.emptied:
            self._ends[epoch] = EarlierEpoch(run, end)
            if epoch == self.inventory.epoch:
                self._synced_end = end
        self._segments = [segment for segment in self._segments if segment not in removal.segments]
        for epoch in removal.forgotten:
            self._ends.pop(epoch, None)

    def _save(self) -> None:
        saved = self.rules.to_save(self.now_s)
        if saved is None:
            return
        if self.refuses_saving:
            self.rules.save_failed(self.now_s)
        else:
            self._saved = saved
            self.rules.saved(self.now_s)


def play(seed: int, faults: int, *, keys: bool, actions: tuple[str, ...] = ACTIONS) -> Counter[str]:
    """Let so many things happen by chance, in worlds of 100 each; return how often each did. Raises AssertionError."""
    done: Counter[str] = Counter()
    chance = random.Random(seed)
    while done.total() < faults:
        world = World(keys=keys)
        script = [(chance.choice(actions), chance.randrange(1000)) for _ in range(100)]
        try:
            for action, number in script:
                world.act(action, number)
                done[action] += 1
            world.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed} keys {keys}: {error}; after {script}") from error
    return done
