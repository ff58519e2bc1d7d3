"""A consumer: the real rules of ledger, backfill and commits, and the link to its rig, which loses messages."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import count
from random import Random

from benchmarks.simulation.rig import SimulatedRig
from benchmarks.simulation.run import Folder, Run
from benchmarks.simulation.truth import DEVICE, Name
from learner.errors import LearnerError
from stream.live.announcements import Announcement, Bye, Hello
from stream.live.backfill_messages import PairsReply, Reply, Vitals
from stream.live.backfill_plan import BackfillPlan
from stream.live.backfill_server import reply_to
from stream.live.ledger import Ledger
from stream.pair import EncodedPair
from stream.source import Cursor

ROUNDS = 200
"""Rounds of questions and replies in which everything must have come."""


@dataclass(eq=False)
class SimulatedConsumer:
    """A process of a learner, and its run directory.

    peer: the name of its key; None: there are no keys. now_s: seconds of its monotonic clock.
    """

    name: str
    rig: SimulatedRig
    random: Random
    peer: str | None = None
    now_s: float = 0.0
    folder: Folder = field(default_factory=Folder)
    backups: list[Folder] = field(default_factory=list)
    """Copies of its run directory, one after each commit, the newest last."""
    owed_from: int = 0
    """The pairs that the rig kept before this one are not owed to it."""
    durable: set[Name] = field(default_factory=set)
    """What any commit under its name has ever held, or counted as lost."""
    twice: int = 0
    """How often a pair has entered again."""
    refusals: int = 0
    """How often its run directory was refused."""
    touched: int = 0
    """How often a refusal has changed something."""

    def __post_init__(self) -> None:
        self._stamps = count(1)
        self.start()

    def start(self) -> None:
        """Begin a process on its run directory; the one before it has died at any moment.

        If the folder is refused, it must not have changed; its newest backup is then restored.
        """
        before = self.folder.contents()
        try:
            self.run = Run(self.folder, self.random, self._acknowledge)
        except LearnerError:
            self.refusals += 1
            self.touched += self.folder.contents() != before
            self.folder = self.backups[-1].copy()
            self.run = Run(self.folder, self.random, self._acknowledge)
        cursor = self.run.cursor
        self.entered: list[Name] = list(self.run.entered)
        self._names = set(self.entered)
        if cursor is not None:  # the process before may have died behind its commit
            self.durable |= self._names | lost_in(cursor)
        self.queue: deque[EncodedPair] = deque()
        self.ledger = Ledger(cursor)
        self.plan = BackfillPlan(0, self.name, cursor, clock=lambda: self.now_s, clock_ns=lambda: next(self._stamps))
        self.join()

    def join(self) -> None:
        """Connect to the rig; what was under way on the old connection is lost."""
        self.link: deque[EncodedPair | Announcement] = deque()
        self.replies: deque[tuple[Reply, list[EncodedPair]]] = deque()
        self.announce(Hello)

    def announce(self, kind: type[Hello] | type[Bye]) -> None:
        """Receive a hello or a bye of the rig, later."""
        epoch = self.rig.epoch
        self.link.append(kind(device=DEVICE, epoch=epoch, next_seq=self.rig.truth.made[epoch], backfill=True))

    def hear(self, most: int) -> None:
        """Receive some messages of the live stream."""
        for _ in range(min(most, len(self.link))):
            message = self.link.popleft()
            if not isinstance(message, EncodedPair):
                self.ledger.receive_announcement(message, self.now_s)
            elif self.ledger.receive(message, self.now_s):
                self.queue.append(message)

    def ask(self) -> None:
        """Send the requests that are due; the rig answers at once, and its replies are heard later."""
        while (request := self.plan.next_request(self.ledger, has_room=True)) is not None:
            self.plan.sent(request)
            reply, rows = reply_to(request, self.rig, over=False, now_ns=0, vitals=Vitals, peer=self.peer)
            if not self._has_met():  # neither side knows what was kept for it before the rig has met it, perhaps again
                met_at = len(self.rig.truth.kept) if self.name in self.rig.impersonated else self.rig.came[self.name]
                self.owed_from = max(self.owed_from, met_at)
            pairs = self._pairs_of(reply, len(rows)) if isinstance(reply, PairsReply) else []
            self.replies.append((reply, pairs))

    def hear_replies(self, most: int) -> None:
        """Receive some replies."""
        for _ in range(min(most, len(self.replies))):
            self.queue.extend(self.plan.receive(*self.replies.popleft(), self.ledger))

    def take(self, most: int) -> None:
        """Learn some of the pairs that wait."""
        pairs = [self.queue.popleft() for _ in range(min(most, len(self.queue)))]
        self.ledger.deliver(pairs)
        for pair in pairs:
            name = pair.header.epoch, pair.header.seq
            self.twice += name in self._names
            self._names.add(name)
            self.entered.append(name)

    def commit(self, *, acknowledges: bool = True) -> None:
        """Make durable what was learned, and tell the rig with the next requests. Raises Killed where the folder says so."""
        self.newest = self.run.commit(self.entered, self.ledger.cursor(), acknowledges=acknowledges)
        self.durable |= self._names | lost_in(self.newest.cursor)
        self.backups.append(self.folder.copy())

    def _acknowledge(self, cursor: Cursor) -> None:
        self.durable |= self._names | lost_in(cursor)
        self.plan.acknowledge(self.ledger, cursor)

    def meet(self) -> None:
        """Meet the rig for the first time: from the commit that follows on, every kept pair is owed to this consumer."""
        self.settle()
        self.owed_from = len(self.rig.truth.kept)

    def settle(self) -> None:
        """Hear and learn everything, until nothing is missing any more; commit and acknowledge it."""
        for turn in range(ROUNDS):
            self.now_s += 1.0
            self.hear(len(self.link))
            self.ask()
            self.hear_replies(len(self.replies))
            self.take(len(self.queue))
            if turn and not self.ledger.stats().pending:
                break
        self.commit()
        self.ask()
        self.hear_replies(len(self.replies))

    def judge(self) -> Counter[str]:
        """Return what is wrong with the newest commit."""
        entered, cursor = self.newest
        names = set(entered)
        epochs = cursor["devices"].get(DEVICE, {"epochs": {}})["epochs"]
        lost = lost_in(cursor)
        known = {epoch: max((b for _, b in book["done"]), default=0) for epoch, book in epochs.items()}
        owed = list(self.rig.truth.kept)[self.owed_from :]
        missing = [name for name in owed if name not in names and name not in lost]
        unseen = [name for name in missing if name in self.rig.truth.unrecorded and name[1] >= known.get(name[0], 0)]
        return Counter(
            silent=len(missing) - len(unseen),
            twice=self.twice + len(entered) - len(names),
            both=len(names & lost),
            thrown_away=sum(self.rig.truth.holds(self.rig.disk, name) for name in lost),
            phantoms=sum(seq >= self.rig.truth.made[epoch] for epoch, seq in lost),
            unseen=len(unseen),
            counted=len(lost),
            refusals=self.refusals,
            touched=self.touched,
        )

    def _has_met(self) -> bool:
        """Return whether it knows what the rig had, also in the process before."""
        return bool(self.ledger.cursor()["devices"].get(DEVICE, {"met": False})["met"])

    def _pairs_of(self, reply: PairsReply, rows: int) -> list[EncodedPair]:
        """Return the pairs in a reply: all of its range that are not lost."""
        lost = {seq for first, last in reply.lost for seq in range(first, last)}
        found = [self.rig.truth.kept[reply.epoch, seq] for seq in range(reply.first, reply.next) if seq not in lost]
        assert len(found) == rows
        return found


def lost_in(cursor: Cursor) -> set[Name]:
    """Return the pairs that a cursor counts as lost."""
    epochs = cursor["devices"].get(DEVICE, {"epochs": {}})["epochs"]
    return {
        (epoch, seq) for epoch, book in epochs.items() for first, last in book["lost"] for seq in range(first, last)
    }
