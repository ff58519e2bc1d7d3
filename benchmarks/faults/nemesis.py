"""Faults of rigs, consumers, links and disks. A seed decides their kinds, times and lengths.

It does not decide how far a process has got when a fault happens, so a failing seed can be tried again, but not repeated exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import NamedTuple


class Hits(Enum):
    """What a fault hits."""

    RIG = auto()
    CONSUMER = auto()
    LEARNER = auto()
    """A consumer that is a real learner: it has a run directory."""
    LINK = auto()


class Costs(Enum):
    """What a fault can cost, so that a counted range is explained."""

    NOTHING = auto()
    REFUSED = auto()
    """Pairs that the rig cannot keep while the fault lasts."""
    FREED = auto()
    """Pairs that the rig freed before a consumer had them, until it knows all consumers again."""
    KEPT = auto()
    """Pairs in the spool, then what FREED costs."""
    ALL = auto()
    """Pairs in the spool together with the record that they existed, then what FREED costs."""
    STATE = auto()
    """What one consumer had received."""


class Kind(NamedTuple):
    """A kind of faults."""

    what: str
    hits: Hits
    costs: Costs = Costs.NOTHING


KINDS = {
    "kill-rig": Kind("kill -9", Hits.RIG),
    "kill-learner": Kind("kill -9", Hits.CONSUMER),
    "stall-rig": Kind("SIGSTOP, later SIGCONT", Hits.RIG),
    "stall-learner": Kind("SIGSTOP, later SIGCONT", Hits.CONSUMER),
    "cut-link": Kind("all connections closed and new ones refused", Hits.LINK),
    "freeze-link": Kind("nothing is forwarded, nothing closed", Hits.LINK),
    "clock": Kind("the rig's clock is set, by -200 to +40 days", Hits.RIG),
    "clock-learner": Kind("a consumer's clock is set, by -200 to +40 days", Hits.CONSUMER),
    "strangers": Kind("200 connections that say nothing or half a request, to rig and page", Hits.RIG),
    "hostile-peer": Kind("garbage, endless messages, floods of subscriptions and questions to the rig", Hits.RIG),
    "hostile-rig": Kind("a consumer is connected to an endless message, or to garbage", Hits.LINK),
    "invented-names": Kind("a peer asks under 200 invented names", Hits.RIG),
    "full-run": Kind("a consumer's disk takes nothing more", Hits.CONSUMER),
    "read-only-run": Kind("a learner is killed, and starts on a disk that is read-only", Hits.LEARNER),
    "copied-run": Kind("a learner is killed, its run is copied, and the copy goes on alone", Hits.LEARNER),
    "full-disk": Kind("the rig's disk takes nothing more", Hits.RIG, Costs.REFUSED),
    "read-only-disk": Kind("the rig is killed, and starts on a disk that is read-only", Hits.RIG, Costs.REFUSED),
    "lost-list": Kind("the rig is killed, its list of consumers damaged or removed", Hits.RIG, Costs.FREED),
    "torn-tail": Kind("the rig is killed, and its newest file is cut off at a random byte", Hits.RIG, Costs.KEPT),
    "flipped-bits": Kind("the rig is killed, and 1 to 8 bits of its spool are turned", Hits.RIG, Costs.KEPT),
    "wiped-spool": Kind("the rig is killed, and its spool deleted", Hits.RIG, Costs.ALL),
    "old-spool": Kind("the rig is killed, and an older copy of its spool restored", Hits.RIG, Costs.ALL),
    "old-backup": Kind("a consumer is killed, and an older copy of its files restored", Hits.CONSUMER, Costs.STATE),
    "backup-without-log": Kind("the same with a learner, without SQLite's -wal and -shm", Hits.LEARNER, Costs.STATE),
    "half-backup": Kind("the same with a learner, with half of the files", Hits.LEARNER, Costs.STATE),
    "lost-log": Kind("a learner is killed, its pairs.sqlite-wal damaged or removed", Hits.LEARNER, Costs.STATE),
    "empty-store": Kind("a learner is killed, its pairs.sqlite emptied", Hits.LEARNER, Costs.STATE),
    "damaged-checkpoint": Kind("a learner is killed, its newest checkpoint damaged", Hits.LEARNER, Costs.STATE),
    "flipped-run": Kind("a learner is killed, and 1 to 8 bits of its run are turned", Hits.LEARNER, Costs.STATE),
}
HARMLESS = tuple(name for name, kind in KINDS.items() if kind.costs is Costs.NOTHING)
"""Kinds that cannot cost a pair."""
LINK_KINDS = ("cut-link", "freeze-link")
BACKUPS = ("old-backup", "backup-without-log", "half-backup")
PEERS = ("strangers", "hostile-peer", "hostile-rig", "invented-names")
"""Kinds for which a process of a stranger is started."""
RARE = 0.2
"""Weight of the kinds that cost everything: often, they would hide what others cost."""
LONG_KINDS = (*LINK_KINDS, "stall-rig", "stall-learner")
LONG_HOLD_SHARE = 0.05
LONG_HOLD_S = 8.0
"""Length of a long fault, which is longer than the timeout of a connection."""
PEER_HOLD_S = 2.0
"""Shortest stay of a stranger, who takes half a second to start."""
CLOCK_DAYS = (-200, 40)
MAX_ALONE = 20
QUIET_S = 2.0
"""Time between two faults that are done one at a time."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its time after the start of the run, its rig and its consumer (only a fault of a link concerns both)."""

    kind: str
    at_s: float
    hold_s: float
    """Seconds until the fault is undone, or until a killed process is started again."""
    rig: int
    consumer: int
    seed: int
    """Seed of the positions of the damage."""

    def hits(self, rig: int, consumer: int) -> bool:
        """Return whether the fault concerns this rig, this consumer, or the link between them."""
        match KINDS[self.kind].hits:
            case Hits.RIG:
                return self.rig == rig
            case Hits.LINK:
                return (self.rig, self.consumer) == (rig, consumer)
        return self.consumer == consumer


def plan(
    seed: int,
    count: int,
    kinds: Sequence[str],
    *,
    rigs: int,
    consumers: int,
    learners: Sequence[int] = (),
    every_s: float,
    hold_s: float,
    long: bool,
) -> list[Fault]:
    """Return faults in the order of their times, on average `every_s` apart; several may be active at the same time.

    The last tenth are cuts and freezes (if they are among the kinds) one at a time, which shows how soon a link works again.
    learners: the numbers of those consumers that are real learners; without them there are no faults of run directories.
    hold_s: longest length of most faults. long: some cuts, freezes and stalls last longer than the timeout of a connection.
    """
    random = Random(seed)
    possible = [kind for kind in kinds if learners or KINDS[kind].hits is not Hits.LEARNER]
    weights = [RARE if KINDS[kind].costs is Costs.ALL else 1.0 for kind in possible]
    links = [kind for kind in possible if kind in LINK_KINDS]
    alone = min(count // 10, MAX_ALONE) if links else 0
    faults, at_s, over_s = [], 0.0, 0.0
    for number in range(count):
        is_alone = number >= count - alone
        kind = random.choice(links) if is_alone else random.choices(possible, weights)[0]
        at_s = over_s + QUIET_S if is_alone else at_s + random.expovariate(1 / every_s)
        held_s = random.uniform(0.1, hold_s) if is_alone or random.random() < 0.5 else random.uniform(0.0, 0.3)
        if long and kind in LONG_KINDS and not is_alone and random.random() < LONG_HOLD_SHARE:
            held_s = LONG_HOLD_S
        held_s = max(held_s, PEER_HOLD_S) if kind in PEERS else held_s
        over_s = max(over_s, at_s + held_s)
        consumer = random.choice(learners) if KINDS[kind].hits is Hits.LEARNER else random.randrange(consumers)
        faults.append(Fault(kind, at_s, held_s, random.randrange(rigs), consumer, random.getrandbits(32)))
    return faults
