"""Rigs, consumers and the links between them, as real processes on this machine, and the faults that can be applied to them."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.faults.actions import Actions
from benchmarks.faults.actors import Actor, RigProcess
from benchmarks.faults.check import Harm, Name, owed
from benchmarks.faults.consumers import Consumer, LearnerProcess, ListingProcess, RecorderProcess
from benchmarks.faults.nemesis import KINDS, Costs, Fault
from benchmarks.faults.rig import RigLoad
from benchmarks.shared.link import Link
from learner.errors import Failed

START_TIMEOUT_S = 400.0
END_TIMEOUT_S = 120.0
STUCK_S = 100.0
"""The wait for pairs ends when nothing has arrived for this time."""
CALM_S = 1.0
"""Pause after everything has arrived: a repeated pair would arrive within this time."""
TURN_S = 0.01
MAX_CRASHES = 20
REFUSING_S = 1.5
"""Seconds after a full disk in which a spool may still refuse pairs, because it waits for a second before it tries again."""
_EPOCH_END = re.compile(r"\d{8}-([0-9a-f]{32})\.head")
"""The name of the file that says how far an epoch goes."""


@dataclass(slots=True)
class Struck:
    """A fault that was applied: from when until when, by the machine's monotonic clock."""

    fault: Fault
    from_ns: int
    until_ns: int
    hit: bool
    """Whether the fault had an effect: a process that is not running cannot be killed."""
    detail: str
    """Which files were damaged, and how."""
    known_ns: int | None = None
    """When the rig was undamaged again and knew all consumers; None: not yet."""


class Stage:
    """All rigs, consumers and links. Each consumer has its own link to each rig.

    load: pairs and room of each rig. learners, runs, recorders: numbers of consumers that list pairs, train on them, record them.
    """

    def __init__(
        self,
        folder: Path,
        load: RigLoad,
        *,
        rigs: int,
        learners: int,
        runs: int = 0,
        recorders: int = 0,
        make_link: Callable[[], Link] = Link,
    ) -> None:
        self.folder = folder
        self.struck: list[Struck] = []
        self.refusals: Counter[str] = Counter()
        """How often a program has refused to start, by its name: its files were damaged, or its disk took nothing."""
        kinds: list[tuple[type[Consumer], str, int]] = [
            (ListingProcess, "learner", learners),
            (LearnerProcess, "run", runs),
            (RecorderProcess, "recorder", recorders),
        ]
        names = [(kind, f"{name}{number}") for kind, name, count in kinds for number in range(count)]
        self.links = {(rig, at): make_link() for rig, at in product(range(rigs), range(len(names)))}
        self.rigs = [
            RigProcess(f"rig{rig}", folder, [self.links[rig, at] for at in range(len(names))], load)
            for rig in range(rigs)
        ]
        self.consumers: list[Consumer] = [
            kind(name, folder, [self.links[rig, at] for rig in range(rigs)]) for at, (kind, name) in enumerate(names)
        ]
        self._actions = Actions(self.rigs, self.consumers, self.links, folder)

    @property
    def kept(self) -> int:
        """Pairs kept so far."""
        return sum(len(rig.journal.kept) for rig in self.rigs)

    @property
    def actors(self) -> list[Actor]:
        """All rigs and consumers, in the order in which they should end."""
        return [*self.consumers, *self.rigs]

    def start(self) -> None:
        """Start all processes.

        The rigs begin once each of them knows each consumer, so that pairs are kept for it from the first one. It ends when each
        consumer has committed something. Each actor then has a backup.
        """
        for actor in self.actors:
            actor.process.start()
        everybody = len(self.consumers)
        self.require(
            lambda: all(rig.consumers == everybody for rig in self.rigs), START_TIMEOUT_S, "a consumer is missing"
        )
        for rig in self.rigs:
            rig.go(True)
        for consumer in self.consumers:
            self.require(partial(_is_ready, consumer), START_TIMEOUT_S, f"{consumer.name} commits nothing")
        for actor in self.actors:
            actor.back_up()

    def attend(self) -> None:
        """Do one round of work: restart crashed processes, as a service manager does.

        Raises Failed if they crash too often.
        """
        for actor in self.actors:
            process = actor.process
            if not process.check() and self._has_refused(actor):
                process.crashes -= 1
                self.refusals[actor.name] += 1
            process.start()
            if process.crashes > MAX_CRASHES:
                raise Failed(f"{process.name} ended by itself {process.crashes} times: see its log in {self.folder}")
        for rig in self.rigs:
            rig.attend()
        for struck in self.struck:
            if struck.known_ns is None and self._is_over(struck):
                struck.known_ns = time.monotonic_ns()
        time.sleep(TURN_S)

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Do rounds of work until the condition holds; return False if it does not within `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                return False
            self.attend()
        return True

    def require(self, condition: Callable[[], bool], timeout_s: float, failure: str) -> None:
        """Wait as `wait` does. Raises Failed, with this reason, if the condition does not hold in time."""
        if not self.wait(condition, timeout_s):
            raise Failed(f"{failure}: see the logs in {self.folder}")

    def strike(self, fault: Fault) -> Struck:
        """Apply a fault."""
        hit = self._actions.can_hit(fault)
        detail = self._actions.of(fault)[0]() or ""
        now_ns = time.monotonic_ns()
        struck = Struck(fault, now_ns, now_ns, hit, detail)
        self.struck.append(struck)
        return struck

    def relieve(self, struck: Struck) -> None:
        """Undo a fault; destroyed data stays destroyed."""
        struck.until_ns = time.monotonic_ns()
        self._actions.of(struck.fault)[1]()

    def harms(self, consumer: Consumer) -> list[Harm]:
        """Return the harms of all faults so far that can cost a consumer pairs."""
        found = []
        for struck in self.struck:
            device = self.rigs[struck.fault.rig].name
            known_ns = float("inf") if struck.known_ns is None else struck.known_ns
            match KINDS[struck.fault.kind].costs:
                case Costs.REFUSED:
                    found.append(Harm(device, struck.until_ns + int(1e9 * REFUSING_S), False))
                case Costs.FREED:
                    found.append(Harm(device, known_ns, False))
                case Costs.KEPT | Costs.ALL as costs:
                    found.append(Harm(device, known_ns, False))
                    ends = [""] if costs is Costs.ALL else _EPOCH_END.findall(struck.detail)
                    found += [Harm(device, struck.from_ns, True, epoch) for epoch in ends]
                case Costs.STATE if self.consumers[struck.fault.consumer] is consumer:
                    found.append(Harm("", struck.from_ns, False))
        return found

    def owed(self) -> list[Name]:
        """Return the kept pairs that consumers have not committed yet, once for each consumer that lacks them."""
        return [
            name
            for consumer in self.consumers
            for cursor, harms in [(consumer.cursor, self.harms(consumer))]
            for rig in self.rigs
            for name in owed(rig.journal, cursor, rig.device, harms)
        ]

    def settle(self) -> None:
        """Stop the rigs; wait until every consumer has committed all pairs that it can get, or until nothing more arrives."""
        for rig in self.rigs:
            rig.go(False)
        self.wait(lambda: all(rig.rests for rig in self.rigs), START_TIMEOUT_S)
        left, since_s = len(self.owed()), time.monotonic()
        while left and time.monotonic() - since_s < STUCK_S:
            self.wait(lambda: False, 0.3)
            now_left = len(self.owed())
            if now_left != left:
                left, since_s = now_left, time.monotonic()
        self.wait(lambda: False, CALM_S)

    def end(self) -> bool:
        """Stop all processes, the consumers first; return False if one of them did not end normally."""
        codes = [actor.process.end(END_TIMEOUT_S) for actor in self.actors]
        return not any(codes)

    def close(self, keep: bool) -> None:
        """Kill all processes, and close links and disks. keep: whether the files of all actors are copied to the folder."""
        self._actions.close()
        for actor in self.actors:
            actor.process.close()
        for link in self.links.values():
            link.close()
        for actor in self.actors:
            actor.close(self.folder if keep else None)

    def _has_refused(self, actor: Actor) -> bool:
        """Return whether a process that ended by itself was right to do so."""
        return actor.disk.refuses or (isinstance(actor, LearnerProcess) and actor.has_refused())

    def _is_over(self, struck: Struck) -> bool:
        """Return whether a rig is back after a fault, and knows all consumers."""
        return struck.until_ns > struck.from_ns and self.rigs[struck.fault.rig].consumers >= len(self.consumers)


def _is_ready(consumer: Consumer) -> bool:
    return consumer.ready
