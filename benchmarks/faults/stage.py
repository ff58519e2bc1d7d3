"""Rigs, learners and the links between them, as real processes of this machine, and what a nemesis can do to them."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.faults.actors import Learner, Rig
from benchmarks.faults.check import Harm, Name, owed
from benchmarks.faults.nemesis import CLOCK_STEPS_S, DESTROYING, HARMING, LINK_KINDS, Fault, damage
from benchmarks.faults.rig import SMALL
from benchmarks.shared.link import Link
from benchmarks.shared.processes import Supervised

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 30.0
STUCK_S = 30.0
"""Nothing more is waited for once nothing came for so long."""
CALM_S = 1.0
"""After everything came: a pair that comes again would come by then."""
TURN_S = 0.01
MAX_CRASHES = 20
REFUSING_S = 1.5
"""How long after a full disk a spool may still refuse: it leaves the disk alone for a second."""


class StageError(Exception):
    """Processes that do not do what they are there for; the message says where they said why."""


@dataclass(slots=True)
class Struck:
    """A fault, since when it was done, and until when, by the machine's monotonic clock."""

    fault: Fault
    from_ns: int
    until_ns: int
    hit: bool
    """Whether there was something to hit: one that is down cannot be killed."""
    detail: str
    """What was damaged."""


class Stage:
    """All of them. Every learner has a link of its own to every rig.

    spool_bytes, pairs_per_s: of each rig. size: of its images, height and width.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rigs: int,
        learners: int,
        spool_bytes: int,
        pairs_per_s: float,
        size: tuple[int, int] = SMALL,
        make_link: Callable[[], Link] = Link,
    ) -> None:
        self.folder = folder
        self.struck: list[Struck] = []
        self.links = {(rig, learner): make_link() for rig, learner in product(range(rigs), range(learners))}
        self._ills: Counter[tuple[str, int, int]] = Counter()
        self.rigs = [
            Rig(
                f"rig{rig}",
                folder / f"rig{rig}",
                [self.links[rig, learner] for learner in range(learners)],
                spool_bytes=spool_bytes,
                pairs_per_s=pairs_per_s,
                size=size,
            )
            for rig in range(rigs)
        ]
        self.learners = [
            Learner(f"learner{learner}", folder, [self.links[rig, learner] for rig in range(rigs)])
            for learner in range(learners)
        ]

    @property
    def kept(self) -> int:
        """Pairs so far."""
        return sum(len(rig.journal.kept) for rig in self.rigs)

    @property
    def processes(self) -> list[Supervised]:
        """All of them, in the order in which they are to end."""
        return [learner.process for learner in self.learners] + [rig.process for rig in self.rigs]

    def start(self) -> None:
        """Start everybody, and let the rigs go once each learner is known to each rig: from then on pairs are kept for it."""
        for process in self.processes:
            process.start()
        self.wait(lambda: all(learner.ready for learner in self.learners), START_TIMEOUT_S)
        if not all(learner.ready for learner in self.learners):
            raise StageError(f"not everybody started: see the logs in {self.folder}")
        for rig in self.rigs:
            rig.go(True)

    def attend(self) -> None:
        """One turn: what crashed is started again, as a service manager does. Raises StageError where that is no use."""
        for rig in self.rigs:
            rig.attend()
        for process in self.processes:
            process.watch()
            process.start()
            if process.crashes > MAX_CRASHES:
                raise StageError(f"{process.name} ends by itself again and again: see its log in {self.folder}")
        time.sleep(TURN_S)

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Take turns until it holds; False where it does not in time."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                return False
            self.attend()
        return True

    def strike(self, fault: Fault) -> Struck:
        """Do it."""
        rig, learner = self.rigs[fault.rig], self.learners[fault.learner]
        hit, detail = self._can_hit(fault), ""
        match fault.kind:
            case "kill-learner":
                learner.process.take_down()
            case "stall-rig":
                rig.process.stall()
            case "stall-learner":
                learner.process.stall()
            case "cut-link" | "freeze-link":
                self._afflict(fault, 1)
            case "clock":
                rig.step_clock(random.Random(fault.seed).choice(CLOCK_STEPS_S))
            case "full-disk":
                rig.fill(1)
            case _:
                rig.take_down()
                if fault.kind in DESTROYING:
                    detail = damage(fault.kind, rig.disk.spool, random.Random(fault.seed))
        now_ns = time.monotonic_ns()
        struck = Struck(fault, now_ns, now_ns, hit, detail)
        self.struck.append(struck)
        return struck

    def relieve(self, struck: Struck) -> None:
        """Undo it; what was destroyed stays so."""
        struck.until_ns = time.monotonic_ns()
        fault = struck.fault
        rig, learner = self.rigs[fault.rig], self.learners[fault.learner]
        match fault.kind:
            case "kill-learner":
                learner.process.bring_up()
            case "stall-rig":
                rig.process.resume()
            case "stall-learner":
                learner.process.resume()
            case "cut-link" | "freeze-link":
                self._afflict(fault, -1)
            case "clock":
                pass
            case "full-disk":
                rig.fill(-1)
            case _:
                rig.process.bring_up()

    def harms(self) -> list[Harm]:
        """What was done so far that can cost pairs."""
        return [
            Harm(self.rigs[struck.fault.rig].device, *_harm(struck))
            for struck in self.struck
            if struck.fault.kind in HARMING
        ]

    def owed(self) -> list[Name]:
        """The kept pairs that learners have not committed yet; one that two of them have not comes twice."""
        harms = self.harms()
        return [
            name
            for rig, learner in product(self.rigs, self.learners)
            for name in owed(rig.journal, learner.cursor, rig.device, harms)
        ]

    def settle(self) -> None:
        """No more pairs; wait until every learner has committed what it is owed, or nothing comes any more."""
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
        """Let everybody stop: the learners, then the rigs; False where one did not end well."""
        codes = [process.end(END_TIMEOUT_S) for process in self.processes]
        return not any(codes)

    def close(self, keep: bool) -> None:
        """End everything at once and free it; keep: the spools stay in the folder."""
        for process in self.processes:
            process.close()
        for link in self.links.values():
            link.close()
        for rig in self.rigs:
            rig.disk.close(self.folder / f"{rig.device}.spool" if keep else None)

    def _can_hit(self, fault: Fault) -> bool:
        if fault.kind in LINK_KINDS:
            return not self._ills["cut-link", fault.rig, fault.learner]
        at_learner = fault.kind in ("kill-learner", "stall-learner")
        process = self.learners[fault.learner].process if at_learner else self.rigs[fault.rig].process
        return process.pid is not None or fault.kind in DESTROYING

    def _afflict(self, fault: Fault, more: int) -> None:
        """One more or one less reason for a link to be cut or frozen."""
        at = fault.rig, fault.learner
        self._ills[fault.kind, *at] += more
        link = self.links[at]
        link.heal()
        if self._ills["cut-link", *at]:
            link.cut()
        if self._ills["freeze-link", *at]:
            link.freeze()


def _harm(struck: Struck) -> tuple[int, bool]:
    """Until when pairs were hit, and whether what tells that there were such pairs may have gone with them."""
    if struck.fault.kind == "full-disk":
        return struck.until_ns + int(1e9 * REFUSING_S), False
    return struck.from_ns, struck.fault.kind == "wiped-spool" or ".head" in struck.detail
