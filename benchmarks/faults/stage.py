"""Rigs, learners and the links between them, as real processes on this machine, and the faults that can be applied to them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.faults.actors import LearnerProcess, RigProcess
from benchmarks.faults.check import Harm, Name, owed
from benchmarks.faults.nemesis import CLOCK_STEPS_S, DESTROYING, HARMING, LEARNER_KINDS, LINK_KINDS, Fault, damage
from benchmarks.faults.rig import RigLoad
from benchmarks.shared.link import Link
from benchmarks.shared.processes import Supervised
from learner.errors import Failed

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 30.0
STUCK_S = 30.0
"""The wait for pairs ends when nothing has arrived for this time."""
CALM_S = 1.0
"""Pause after everything has arrived: a repeated pair would arrive within this time."""
TURN_S = 0.01
MAX_CRASHES = 20
REFUSING_S = 1.5
"""Seconds after a full disk in which a spool may still refuse pairs, because it waits for a second before it tries again."""


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


class Stage:
    """All rigs, learners and links. Each learner has its own link to each rig.

    load: pairs and room of each rig.
    """

    def __init__(
        self, folder: Path, load: RigLoad, *, rigs: int, learners: int, make_link: Callable[[], Link] = Link
    ) -> None:
        self.folder = folder
        self.struck: list[Struck] = []
        self.links = {(rig, learner): make_link() for rig, learner in product(range(rigs), range(learners))}
        self.rigs = [
            RigProcess(f"rig{rig}", folder / f"rig{rig}", [self.links[rig, at] for at in range(learners)], load)
            for rig in range(rigs)
        ]
        self.learners = [
            LearnerProcess(f"learner{learner}", folder, [self.links[rig, learner] for rig in range(rigs)])
            for learner in range(learners)
        ]

    @property
    def kept(self) -> int:
        """Pairs kept so far."""
        return sum(len(rig.journal.kept) for rig in self.rigs)

    @property
    def processes(self) -> list[Supervised]:
        """All processes, in the order in which they should end."""
        return [learner.process for learner in self.learners] + [rig.process for rig in self.rigs]

    def start(self) -> None:
        """Start all processes.

        The rigs begin once each of them knows each learner, so that pairs are kept for it from the first one.
        """
        for process in self.processes:
            process.start()
        every = self.learners
        self.require(lambda: all(one.ready for one in every), START_TIMEOUT_S, "not all processes started")
        for rig in self.rigs:
            rig.go(True)

    def attend(self) -> None:
        """Do one round of work: restart crashed processes, as a service manager does.

        Raises Failed if they crash too often.
        """
        for rig in self.rigs:
            rig.attend()
        for process in self.processes:
            process.check()
            process.start()
            if process.crashes > MAX_CRASHES:
                raise Failed(f"{process.name} ended by itself {process.crashes} times: see its log in {self.folder}")
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
        hit = self._can_hit(fault)
        detail = self._actions(fault)[0]() or ""
        now_ns = time.monotonic_ns()
        self.struck.append(Struck(fault, now_ns, now_ns, hit, detail))
        return self.struck[-1]

    def relieve(self, struck: Struck) -> None:
        """Undo a fault; destroyed data stays destroyed."""
        struck.until_ns = time.monotonic_ns()
        self._actions(struck.fault)[1]()

    def _actions(self, fault: Fault) -> tuple[Callable[[], str | None], Callable[[], None]]:
        """Return two functions: one applies a fault and returns what it damaged, the other one undoes it."""
        rig, link, process = self.rigs[fault.rig], self.links[fault.rig, fault.learner], self._process(fault)
        chance = random.Random(fault.seed)
        match fault.kind:
            case "kill-learner":
                return process.take_down, process.bring_up
            case "stall-rig" | "stall-learner":
                return process.stall, process.resume
            case "cut-link":
                return link.cut, partial(link.cut, -1)
            case "freeze-link":
                return link.freeze, partial(link.freeze, -1)
            case "clock":
                return partial(rig.step_clock, chance.choice(CLOCK_STEPS_S)), lambda: None
            case "full-disk":
                return partial(rig.fill, 1), partial(rig.fill, -1)
            case _:
                return partial(rig.take_down, partial(damage, fault.kind, random=chance)), rig.process.bring_up

    def harms(self) -> list[Harm]:
        """Return the harms of all faults so far that can cost pairs."""
        return [
            Harm(self.rigs[struck.fault.rig].device, *_harm(struck))
            for struck in self.struck
            if struck.fault.kind in HARMING
        ]

    def owed(self) -> list[Name]:
        """Return the kept pairs that learners have not committed yet, once for each learner that lacks them."""
        harms = self.harms()
        return [
            name
            for rig, learner in product(self.rigs, self.learners)
            for name in owed(rig.journal, learner.cursor, rig.device, harms)
        ]

    def settle(self) -> None:
        """Stop the rigs; wait until every learner has committed all pairs that it can get, or until nothing more arrives."""
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
        """Stop all processes, the learners first; return False if one of them did not end normally."""
        codes = [process.end(END_TIMEOUT_S) for process in self.processes]
        return not any(codes)

    def close(self, keep: bool) -> None:
        """Kill all processes, and close links and disks. keep: whether the spools are copied to the folder."""
        for process in self.processes:
            process.close()
        for link in self.links.values():
            link.close()
        for rig in self.rigs:
            rig.disk.close(self.folder / f"{rig.device}.spool" if keep else None)

    def _can_hit(self, fault: Fault) -> bool:
        if fault.kind in LINK_KINDS:
            return not self.links[fault.rig, fault.learner].is_cut
        return self._process(fault).pid is not None or fault.kind in DESTROYING

    def _process(self, fault: Fault) -> Supervised:
        """Return the process that a fault hits, if it is no fault of a link."""
        return (self.learners[fault.learner] if fault.kind in LEARNER_KINDS else self.rigs[fault.rig]).process


def _harm(struck: Struck) -> tuple[int, bool]:
    """Return the time until which a fault could hit pairs, and whether it may have destroyed the record that they existed."""
    if struck.fault.kind == "full-disk":
        return struck.until_ns + int(1e9 * REFUSING_S), False
    return struck.from_ns, struck.fault.kind == "wiped-spool" or ".head" in struck.detail
