"""How each fault is done to the actors and links of a stage, and undone."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.faults.actors import Actor, RigProcess
from benchmarks.faults.consumers import Consumer, LearnerProcess
from benchmarks.faults.damage import damage, restore_backup
from benchmarks.faults.nemesis import BACKUPS, CLOCK_DAYS, KINDS, PEERS, Costs, Fault, Hits
from benchmarks.shared.forked import Forked
from benchmarks.shared.link import Link
from benchmarks.shared.processes import Supervised

BACKUP_SHARE = 0.5
"""Share of the kills, stalls and changed clocks at which a backup is made."""


class Actions:
    """Applies faults to rigs, consumers and the links between them, which `(rig, consumer)` numbers. folder: for logs."""

    def __init__(
        self,
        rigs: Sequence[RigProcess],
        consumers: Sequence[Consumer],
        links: Mapping[tuple[int, int], Link],
        folder: Path,
    ) -> None:
        self.rigs, self.consumers, self.links, self.folder = rigs, consumers, links, folder
        self._peers: dict[Fault, Supervised] = {}

    def can_hit(self, fault: Fault) -> bool:
        """Return whether a fault has an effect now: a process that is not running cannot be killed."""
        if KINDS[fault.kind].hits is Hits.LINK:
            return not self.links[fault.rig, fault.consumer].is_cut
        actor = self._actor(fault)
        if fault.kind in (*BACKUPS, "old-spool"):
            return actor.backup is not None
        return actor.process.pid is not None or KINDS[fault.kind].costs is not Costs.NOTHING

    def of(self, fault: Fault) -> tuple[Callable[[], str | None], Callable[[], object]]:
        """Return two functions: one applies a fault and returns what it damaged, the other one undoes it."""
        actor, link, kind = self._actor(fault), self.links[fault.rig, fault.consumer], fault.kind
        process, chance = actor.process, random.Random(fault.seed)
        if kind in PEERS:
            return partial(self._invite, fault), partial(self._send_away, fault)
        if kind in BACKUPS:
            return partial(self._restore, actor, kind, chance), process.bring_up
        match kind:
            case "kill-rig" | "kill-learner":
                return partial(self._then_back_up, actor, actor.take_down, chance), process.bring_up
            case "stall-rig" | "stall-learner":
                return partial(self._then_back_up, actor, process.stall, chance), process.resume
            case "clock" | "clock-learner":
                step = partial(actor.step_clock, 86400 * chance.uniform(*CLOCK_DAYS))
                return partial(self._then_back_up, actor, step, chance), lambda: None
            case "cut-link":
                return link.cut, partial(link.cut, -1)
            case "freeze-link":
                return link.freeze, partial(link.freeze, -1)
            case "full-disk" | "full-run":
                return partial(actor.fill, 1), partial(actor.fill, -1)
            case "read-only-disk" | "read-only-run":
                return partial(self._lock, actor), partial(actor.disk.lock, -1)
            case "copied-run" if isinstance(actor, LearnerProcess):
                return partial(actor.take_down, actor.move), process.bring_up
            case "old-spool":
                return partial(self._restore, actor, "old-backup", chance), process.bring_up
            case _:
                return partial(actor.take_down, partial(damage, kind, random=chance)), process.bring_up

    def _then_back_up(self, actor: Actor, action: Callable[[], object], chance: random.Random) -> None:
        action()
        if chance.random() < BACKUP_SHARE:
            actor.back_up()

    def _restore(self, actor: Actor, kind: str, chance: random.Random) -> str:
        if actor.backup is None:
            actor.take_down()
            return ""
        return actor.take_down(lambda home: restore_backup(kind, actor.backup or home, home, chance))

    def _lock(self, actor: Actor) -> None:
        """Start a new process on a disk that is read-only."""
        actor.take_down()
        actor.disk.lock(1)
        actor.process.bring_up()

    def _invite(self, fault: Fault) -> None:
        """Start the process of a stranger or a hostile peer."""
        rig, link = self.rigs[fault.rig], self.links[fault.rig, fault.consumer]
        pages = [consumer.page_port for consumer in self.consumers if isinstance(consumer, LearnerProcess)]
        ports = [] if rig.port is None else [rig.port, rig.port + 1, *pages]

        def hear(line: str) -> None:
            link.point_to(int(line.split()[1]))  # a hostile rig listens: it takes the place of the right one

        command = ["-m", "benchmarks.faults.strangers", fault.kind, str(fault.seed), *map(str, ports)]
        peer = self._peers[fault] = Supervised(fault.kind, command, hear, self.folder / f"{fault.kind}.log", Forked)
        peer.start()

    def _send_away(self, fault: Fault) -> None:
        self._peers.pop(fault).close()
        if fault.kind == "hostile-rig":
            self.links[fault.rig, fault.consumer].point_to(self.rigs[fault.rig].port)

    def close(self) -> None:
        """Send all strangers away."""
        for peer in self._peers.values():
            peer.close()

    def _actor(self, fault: Fault) -> Actor:
        """Return the actor that a fault hits; for a fault of a link, the rig."""
        of_consumer = KINDS[fault.kind].hits in (Hits.CONSUMER, Hits.LEARNER)
        return self.consumers[fault.consumer] if of_consumer else self.rigs[fault.rig]
