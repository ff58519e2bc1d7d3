"""A rig's spool and its consumers, without files, threads and clocks: does every consumer know which pairs it will not get?

Consumers have cursors, and behave as the ledger does: what a reply names and they do not have, they enter or count as lost. Every
fault is one call, so that a core tries some thousand in a second. `play` makes the faults from a seed; a test makes them from a
list of its own.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.shared.simulated_rig import GRACE_S, LIMITS, SimulatedRig
from device.spool.rules import SpoolLimits
from stream.live.backfill_messages import Span
from stream.ranges import Ranges

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


class World(SimulatedRig):
    """One rig and its consumers. keys: whether the rig has keys, so that names have owners."""

    def __init__(self, *, keys: bool = False, limits: SpoolLimits = LIMITS) -> None:
        super().__init__(limits)
        self._keys = keys
        self.consumers = [self._consumer(f"learner-{number}") for number in range(2)]

    def act(self, action: str, number: int) -> None:
        """Let something happen."""
        getattr(self, action)(number)

    def meet(self, number: int) -> None:
        """A consumer asks what there is, and takes it."""
        one = self._one(number)
        self.acknowledge(one.name, {}, one.key)
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
        self.acknowledge(one.name, upto, one.key)

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
        self.acknowledge(self._one(number).name, dict(self.epochs), "stranger" if self._keys else None)

    def invent_names(self, number: int) -> None:
        """A stranger asks under names that nobody has."""
        for invented in range(20):
            self.acknowledge(f"invented-{number}-{invented}", {}, "stranger" if self._keys else None)

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
        there = [segment for segment in self.segments if segment.epoch == epoch]
        assert not any(lost.overlap(segment.first, segment.end) for segment in there), "a pair is lost and in the spool"

    # Details

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
