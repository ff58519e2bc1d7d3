"""A rig, its link and its learner as plain sets: what `stream.live.ledger` has to agree with, whatever happens in which order."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec

from stream.live.announcements import Bye, Hello
from stream.live.backfill_messages import PairsReply, Span, SpansReply
from stream.live.ledger import Ledger
from stream.pair import EncodedPair, Header
from stream.source import Cursor

HEADER = Header(
    device="baby", epoch="0" * 32, seq=0, left_ns=0, right_ns=0, height=1, width=1, channels=1, codec="lz4", crc=0
)
Name = tuple[str, int]
"""A pair by epoch and number."""


def pair(seq: int, **changes: object) -> EncodedPair:
    return EncodedPair(msgspec.structs.replace(HEADER, seq=seq, **changes), b"left", b"right")


@dataclass
class Epoch:
    """A run of the rig, and what its spool still has of it."""

    name: str
    made: int = 0
    tail: int = 0
    head: int = 0
    there: set[int] = field(default_factory=set)
    open: bool = True


class World:
    """Everything that can happen, one action at a time; `settle` lets everything be answered, and compares.

    spooled: whether the rig has a spool. calm: no accident takes from the spool what nobody was told of.
    """

    def __init__(self, *, spooled: bool, calm: bool) -> None:
        self.spooled, self.calm = spooled, calm
        self.now_s = 0.0
        self.epochs: list[Epoch] = []
        self.link: deque[EncodedPair | Hello | Bye] = deque()
        self.answers: deque[Callable[[], None]] = deque()
        self.ledger = Ledger()
        self.queue: deque[EncodedPair] = deque()
        self.hands: list[Name] = []
        self.committed: list[Name] = []
        self.cursor: Cursor | None = None
        self.told: Counter[str] = Counter()
        """One past the last number of each epoch that the learner was told of."""
        self.met = False
        """Whether it was told what the spool holds."""
        self.committed_told, self.committed_met = self.told.copy(), self.met
        self.ours: set[str] = set()
        """Epochs that began after a commit that knew of the spool."""
        self.begin()

    @property
    def rig(self) -> Epoch:
        return self.epochs[-1]

    def begin(self) -> None:
        """The rig starts."""
        self.epochs.append(Epoch(f"{len(self.epochs):032x}"))
        if self.committed_met:
            self.ours.add(self.rig.name)
        self.say(Hello)

    def say(self, kind: type[Hello] | type[Bye]) -> None:
        self.link.append(kind(device="baby", epoch=self.rig.name, next_seq=self.rig.made, backfill=self.spooled))

    def make(self, sent: int, *, kept: bool = True) -> None:
        rig = self.rig
        seq, rig.made = rig.made, rig.made + 1
        if self.spooled:
            rig.head = rig.made
            if kept:
                rig.there.add(seq)
        self.link.extend([pair(seq, epoch=rig.name)] * sent)

    # What may happen, each with a small number to play with.

    def make_some(self, count: int) -> None:
        for _ in range(1 + count):
            self.make(1)

    def make_some_that_are_dropped(self, count: int) -> None:
        for _ in range(1 + count):
            self.make(0)

    def make_one_that_comes_twice(self, _: int) -> None:
        self.make(2)

    def make_one_that_the_disk_refuses(self, sent: int) -> None:
        self.make(min(1, sent), kept=False)

    def let_the_link_lose(self, count: int) -> None:
        for _ in range(min(1 + count, len(self.link))):
            self.link.pop()
        self.say(Hello)  # it was broken, and is there again

    def stop_and_start_the_rig(self, _: int) -> None:
        self.say(Bye)
        self.rig.open = False
        self.begin()

    def cut_the_power(self, unsynced: int) -> None:
        rig = self.rig
        rig.open = False
        if not self.calm:
            rig.head = max(rig.tail, rig.head - unsynced)
            rig.there = {seq for seq in rig.there if seq < rig.head}
        self.begin()

    def delete_the_spool(self, _: int) -> None:
        if not self.calm:
            for epoch in self.epochs:
                epoch.there.clear()
                epoch.tail, epoch.open = epoch.head, False
            self.begin()

    def evict(self, count: int) -> None:
        oldest = next((epoch for epoch in self.epochs if epoch.tail < epoch.head), None)
        if oldest is not None:
            self.free(oldest, min(oldest.tail + count, oldest.head - self.calm))

    def rot(self, seq: int) -> None:
        for epoch in self.epochs:
            epoch.there.discard(epoch.tail + seq)

    def free(self, epoch: Epoch, tail: int) -> None:
        epoch.tail = max(epoch.tail, tail)
        epoch.there = {seq for seq in epoch.there if seq >= epoch.tail}

    def hear(self, count: int) -> None:
        for _ in range(min(1 + count, len(self.link))):
            match self.link.popleft():
                case Hello() as hello:
                    self.ledger.receive_announcement(hello, self.now_s)
                    self.tell(hello.epoch, hello.next_seq)
                case Bye() as bye:
                    self.ledger.receive_announcement(bye, self.now_s)
                    self.tell(bye.epoch, bye.next_seq)
                case EncodedPair(header) as live:
                    new = name_of(live) not in [*self.hands, *map(name_of, self.queue)]
                    assert self.ledger.receive(live, self.now_s) == new
                    self.tell(header.epoch, header.seq + 1)
                    self.accept([live] * new)

    def ask_where(self, _: int) -> None:
        if self.spooled:
            spans = [Span(e.name, e.tail, e.head, e.open) for e in self.epochs if e.open or e.tail < e.head]
            self.answers.append(partial(self.hear_where, SpansReply(2, "baby", spans, 0, 0), self.now_s))

    def ask_for_a_hole(self, count: int) -> None:
        wanted = self.ledger.next_request(0, 1 + count, self.now_s, ()) if self.spooled else None
        if wanted is not None:
            self.answers.append(self.answer(*wanted))

    def answer(self, name: str, first: int, last: int) -> Callable[[], None]:
        """What the spool says to that now; it may be heard later."""
        epoch = next(epoch for epoch in self.epochs if epoch.name == name)
        upto = min(last, epoch.head) if epoch.open else last
        rows = [pair(seq, epoch=name) for seq in range(first, upto) if seq in epoch.there]
        lost = [(seq, seq + 1) for seq in range(first, upto) if seq not in epoch.there]
        gave = PairsReply(2, "baby", name, first, max(first, upto), lost)
        return lambda: self.accept(self.ledger.receive_pairs(gave, rows, 0))

    def hear_answers(self, count: int) -> None:
        for _ in range(min(1 + count, len(self.answers))):
            self.answers.popleft()()

    def hear_where(self, here: SpansReply, asked_s: float) -> None:
        self.ledger.receive_spans(here, 0, asked_s, 0)
        self.met = True
        for span in here.spans:
            self.tell(span.epoch, span.head)

    def lose_answers(self, _: int) -> None:
        self.answers.clear()

    def take(self, count: int) -> None:
        pairs = [self.queue.popleft() for _ in range(min(1 + count, len(self.queue)))]
        self.ledger.deliver(pairs)
        self.hands += map(name_of, pairs)

    def commit(self, _: int) -> None:
        self.cursor = json.loads(json.dumps(self.ledger.cursor()))
        self.committed = self.hands.copy()
        self.committed_told, self.committed_met = self.told.copy(), self.met

    def acknowledge(self, _: int) -> None:
        """Nothing that is in the spool may be freed, but what the commit holds or has counted as lost."""
        if self.cursor is None:
            return
        lost = self.lost(self.cursor)
        for name, upto in self.ledger.acknowledgement(self.cursor, 0).items():
            epoch = next(epoch for epoch in self.epochs if epoch.name == name)
            freed = {(name, seq) for seq in epoch.there if seq < upto}
            assert freed <= {*self.committed, *lost}
            self.free(epoch, min(upto, epoch.head))

    def kill_the_learner(self, _: int) -> None:
        self.ledger = Ledger(self.cursor)
        self.hands = self.committed.copy()
        self.told, self.met = self.committed_told.copy(), self.committed_met
        self.queue.clear()
        self.answers.clear()
        self.link.clear()
        self.say(Hello)

    def wait(self, tenths: int) -> None:
        self.now_s += tenths / 10

    def act(self, name: str, number: int) -> None:
        self.now_s += 0.001
        getattr(self, name)(number)
        self.compare()

    def accept(self, pairs: list[EncodedPair]) -> None:
        """No pair is accepted twice."""
        self.queue.extend(pairs)
        assert max(Counter([*self.hands, *map(name_of, self.queue)]).values(), default=1) == 1

    def tell(self, epoch: str, head: int) -> None:
        self.told[epoch] = max(self.told[epoch], head)

    def lost(self, cursor: Cursor) -> list[Name]:
        return [
            (name, seq)
            for name, epoch in cursor["devices"].get("baby", {"epochs": {}})["epochs"].items()
            for first, last in epoch["lost"]
            for seq in range(first, last)
        ]

    def compare(self) -> None:
        """The counts are those of the ranges, and nothing is lost that the learner or the spool has."""
        stats, lost = self.ledger.stats(), self.lost(self.ledger.cursor())
        assert (stats.lost, stats.received) == (len(lost), len(self.hands) + len(self.queue))
        assert not {*self.hands, *map(name_of, self.queue)} & {*lost}
        assert not {(epoch.name, seq) for epoch in self.epochs for seq in epoch.there} & {*lost}

    def settle(self) -> None:
        """All is heard and answered, and the learner commits: then every pair is in the commit once, or lost by name."""
        self.lose_answers(0)
        while self.link:
            self.act("hear", 0)
        self.now_s += 1
        self.act("ask_where", 0)
        self.act("hear_answers", 0)
        while self.spooled and self.ledger.next_request(0, 4, self.now_s, ()) is not None:
            self.act("ask_for_a_hole", 3)
            self.act("hear_answers", 0)
        while self.queue:
            self.act("take", 7)
        self.act("commit", 0)
        assert self.cursor is not None
        assert self.ledger.stats().pending == 0
        accounted = {*self.committed, *self.lost(self.cursor)}
        for epoch in self.epochs:
            for seq in range(epoch.made):
                if (epoch.name, seq) not in accounted:
                    self.excuse(epoch, seq)
        self.act("acknowledge", 0)
        if self.spooled:
            assert not any(epoch.there for epoch in self.epochs)

    def excuse(self, epoch: Epoch, seq: int) -> None:
        """Missing without a word is only what nobody has and nobody was told of, or what was gone before the learner came."""
        assert seq not in epoch.there
        if seq < self.told[epoch.name]:
            assert self.cursor is not None
            assert seq < self.cursor["devices"]["baby"]["epochs"][epoch.name]["joined"]
            assert epoch.name not in self.ours
        else:
            assert not (self.calm and self.spooled)


def name_of(one: EncodedPair) -> Name:
    return one.header.epoch, one.header.seq


ACTIONS = (
    "make_some",
    "make_some_that_are_dropped",
    "make_one_that_comes_twice",
    "make_one_that_the_disk_refuses",
    "let_the_link_lose",
    "stop_and_start_the_rig",
    "cut_the_power",
    "delete_the_spool",
    "evict",
    "rot",
    "hear",
    "ask_where",
    "ask_for_a_hole",
    "hear_answers",
    "lose_answers",
    "take",
    "commit",
    "acknowledge",
    "kill_the_learner",
    "wait",
)
