"""A rig, consumers and honest work, and what must hold at the end; `benchmarks.simulation.faults` adds the faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from random import Random

from benchmarks.simulation.consumer import SimulatedConsumer
from benchmarks.simulation.rig import LIMITS, SimulatedRig
from benchmarks.simulation.truth import Name
from device.spool.rules import SpoolLimits

CONSUMERS = 4
"""Largest number of consumers, copies included."""
MOST_KINDS = 8
"""Kinds of faults in one script."""
STRANGER = "stranger"
"""A key that is let in, and belongs to no consumer."""
FAILURES = ("silent", "twice", "freed_unseen", "both", "thrown_away", "phantoms", "forgotten", "touched")
"""Counts that must be 0."""
CALM = ("make", "hear", "ask", "hear_replies", "take", "commit", "wait")
"""What is no fault."""


class World:
    """A rig and its consumers. `random` decides everything that happens.

    Each script has some kinds of faults only: a wiped spool in each of them would hide what the others do. kinds: those from
    which they are chosen. keyed: whether there are keys; by chance by default. limits: of the spool.
    """

    def __init__(
        self, random: Random, *, kinds: Sequence[str], keyed: bool | None = None, limits: SpoolLimits = LIMITS
    ) -> None:
        self.random = random
        self.keyed = random.random() < 0.5 if keyed is None else keyed
        trusted = {STRANGER, *(f"key{number}" for number in range(CONSUMERS))} if self.keyed else None
        self.rig = SimulatedRig(limits, grace_s=random.choice((0.0, 60.0)), trusted=trusted)
        self.rig.on_freed = self._compare_freed
        self.faults: Counter[str] = Counter()
        self._forgotten = 0
        """Pairs whose record the rig has lost without any damage."""
        self._freed_unseen = 0
        """Pairs that the rig has deleted as acknowledged, though a consumer did not have them."""
        self._kinds = random.sample(kinds, random.randint(1, min(len(kinds), MOST_KINDS)))
        self.consumers: list[SimulatedConsumer] = []
        for _ in range(random.randint(1, 2)):
            self.join()

    def run(self, actions: int) -> Counter[str]:
        """Do so many actions, about half of them faults; then let everything settle, and return the counts."""
        for _ in range(actions):
            if self.random.random() < 0.5:
                self.act(self.random.choice(CALM))
            else:
                kind = self.random.choice(self._kinds)
                self.faults[kind] += 1
                self.act(kind)
        self.rig.full = False
        for _ in range(2):  # what one acknowledges may be what another one still lacks
            for consumer in self.consumers:
                consumer.settle()
        self.compare_records()
        own = Counter(forgotten=self._forgotten, freed_unseen=self._freed_unseen, kept=len(self.rig.truth.kept))
        return sum((one.judge() for one in self.consumers), own)

    def act(self, name: str) -> None:
        """Do one action."""
        self.pass_time(0.01)
        getattr(self, name)()

    def pass_time(self, seconds: float) -> None:
        """Let time pass for everybody."""
        self.rig.now_s += seconds
        for consumer in self.consumers:
            consumer.now_s += seconds

    @property
    def one(self) -> SimulatedConsumer:
        """Any consumer."""
        return self.random.choice(self.consumers)

    def make(self) -> None:
        """The rig makes pairs, which all consumers receive live."""
        self.make_pairs(self.random.randint(1, 6), live=True)

    def hear(self) -> None:
        """A consumer receives some messages of the live stream."""
        self.one.hear(self.random.randint(1, 8))

    def ask(self) -> None:
        """A consumer sends the requests that are due."""
        self.one.ask()

    def hear_replies(self) -> None:
        """A consumer receives some replies."""
        self.one.hear_replies(self.random.randint(1, 4))

    def take(self) -> None:
        """A consumer learns some pairs."""
        self.one.take(self.random.randint(1, 8))

    def commit(self) -> None:
        """A consumer commits and acknowledges."""
        one = self.one
        one.commit()
        one.ask()

    def wait(self) -> None:
        """Time passes, and the rig saves its list."""
        self.pass_time(self.random.choice((0.3, 1.0, 20.0, 700.0)))
        self.rig.save()

    def make_pairs(self, count: int, *, live: bool) -> None:
        """Let the rig make pairs. live: whether consumers receive them."""
        for _ in range(count):
            pair = self.rig.make()
            for consumer in self.consumers if live else ():
                consumer.link.append(pair)

    def join(self) -> None:
        """Let a new consumer meet the rig."""
        number = len(self.consumers)
        one = SimulatedConsumer(
            f"c{number}", self.rig, self.random, f"key{number}" if self.keyed else None, self.rig.now_s
        )
        self.consumers.append(one)
        one.meet()

    def compare_records(self) -> None:
        """Count what the rig has forgotten, and note what is away; to be called before each damage, which would hide it."""
        self._forgotten += len(self.rig.truth.forgotten(self.rig.recorded()))
        self.rig.truth.note_away(self.rig.disk)

    def _compare_freed(self, names: list[Name], known: Collection[str]) -> None:
        for one in self.consumers:
            if one.name not in self.rig.impersonated and (one.name in known or self.rig.now_s < self.rig.complete_s):
                owed = set(list(self.rig.truth.kept)[one.owed_from :])
                self._freed_unseen += sum(name in owed and name not in one.durable for name in names)
