"""The faults of a simulation, and scripts of them until a number is reached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

from benchmarks.simulation.consumer import SimulatedConsumer
from benchmarks.simulation.disk import Disk
from benchmarks.simulation.rig import FORGET_AFTER_S
from benchmarks.simulation.run import Folder, Killed
from benchmarks.simulation.world import CONSUMERS, FAILURES, STRANGER, World
from device.spool.consumers.saved import SavedConsumers
from device.spool.inventory import EarlierEpoch
from stream.live.announcements import Bye

ACTIONS = 60
"""Actions in one script, about half of them faults."""
PROGRESS = 100_000
"""Faults between two lines of progress."""


class FaultyWorld(World):
    """A world in which everything happens that `FAULTS` names."""

    _backup: Disk | None = None

    def drop_live(self) -> None:
        """Pairs find full queues."""
        self.make_pairs(self.random.randint(1, 6), live=False)

    def lose_replies(self) -> None:
        """Replies do not arrive."""
        self.one.replies.clear()

    def break_link(self) -> None:
        """A connection breaks and is made again."""
        self.one.join()

    def kill_consumer(self) -> None:
        """A consumer dies, and goes on from its newest commit."""
        self.one.start()

    def kill_in_commit(self) -> None:
        """A consumer dies somewhere in a commit, or before it has acknowledged it."""
        one = self.one
        one.folder.kill_at = self.random.choice(("flush", "save", "commit", "remove", ""))
        with suppress(Killed):
            one.commit(acknowledges=bool(one.folder.kill_at))
        one.folder.kill_at = ""
        one.start()

    def restore_consumer(self) -> None:
        """An older run directory is restored, or its copy goes on alone."""
        one = self.one
        del one.backups[self.random.randint(1, len(one.backups)) :]
        one.folder = one.backups[-1].copy()
        one.start()

    def restore_half(self) -> None:
        """The store or the checkpoints of an older run directory are restored, the others stay."""
        one = self.one
        backup = self.random.choice(one.backups).copy()
        if self.random.random() < 0.5:
            one.folder.identity, one.folder.rows, one.folder.made = backup.identity, backup.rows, backup.made
        else:
            one.folder.states, one.folder.damaged, one.folder.unfinished = backup.states, backup.damaged, set()
        one.start()

    def lose_log(self) -> None:
        """The store has lost what it wrote last, or all of it."""
        one = self.one
        store = self.random.choice((*one.backups, Folder())).copy()
        one.folder.identity, one.folder.rows, one.folder.made = store.identity, store.rows, store.made
        one.start()

    def damage_checkpoint(self) -> None:
        """A checkpoint is damaged."""
        one = self.one
        one.folder.damaged.add(self.random.choice(sorted(one.folder.states)))
        one.start()

    def copy_consumer(self) -> None:
        """A copy of a consumer, perhaps an old one, goes on beside it."""
        if len(self.consumers) < CONSUMERS:
            one = self.one
            backups = [backup.copy() for backup in one.backups[: self.random.randint(1, len(one.backups))]]
            folder, when = backups[-1].copy(), one.now_s
            copy = SimulatedConsumer(
                one.name, self.rig, self.random, one.peer, when, folder, backups, one.owed_from, one.durable
            )
            self.consumers.append(copy)

    def add_consumer(self) -> None:
        """A further consumer comes."""
        if len(self.consumers) < CONSUMERS:
            self.join()

    def acknowledge_for_another(self) -> None:
        """Somebody acknowledges everything in the name of a consumer."""
        one = self.one
        other = self.random.choice([key for key in (STRANGER, "key0", "key1") if key != one.peer])
        if not self.keyed or not self.rig.knows(one.name):
            self.rig.impersonated.add(
                one.name
            )  # it counts what it misses; where nobody owns a name, nobody can do more
        self.rig.acknowledge(one.name, self.rig.recorded(), peer=other if self.keyed else None)

    def invent_names(self) -> None:
        """A stranger asks under names that nobody has."""
        for number in range(20):
            self.rig.register(f"invented-{self.random.randrange(1000)}-{number}", STRANGER if self.keyed else None)

    def kill_rig(self) -> None:
        """The rig dies and starts again."""
        self.rig.boot(self.rig.disk)
        self._rejoin()

    def stop_rig(self) -> None:
        """The rig ends properly and starts again."""
        for consumer in self.consumers:
            consumer.announce(Bye)
            consumer.hear(len(consumer.link))
        self.rig.stop()
        self.kill_rig()

    def set_clock(self) -> None:
        """The machine of the rig starts again: its monotonic clock begins at another value."""
        self.rig.now_s = self.random.uniform(0.0, 100.0)
        self.kill_rig()

    def cut_power(self) -> None:
        """The newest pairs are lost, perhaps with the number of the last one."""
        self.compare_records()
        self.rig.cut_power(self.random)
        self._rejoin()

    def fill_disk(self) -> None:
        """The disk takes nothing, or takes something again."""
        self.rig.full = not self.rig.full

    def evict(self) -> None:
        """So many pairs are made that old ones have to go."""
        self.make_pairs(30, live=self.random.random() < 0.5)

    def rot(self) -> None:
        """A pair on the disk becomes unreadable."""
        if self.rig.disk.segments:
            segment = self.random.choice(self.rig.disk.segments)
            self.rig.truth.rotten.add((segment.epoch, self.random.randint(segment.first, segment.end)))

    def lose_list(self) -> None:
        """The list of consumers is damaged."""
        disk = self.rig.disk.copy()
        disk.saved = SavedConsumers()
        self._damage(disk)

    def lose_end(self) -> None:
        """The file with the end of an epoch is damaged or missing."""
        disk = self.rig.disk.copy()
        if disk.ends:
            epoch = self.random.choice(list(disk.ends))
            disk.ends[epoch] = EarlierEpoch(disk.ends[epoch].run, 0)
            if self.random.random() < 0.5:
                del disk.ends[epoch]
        self._damage(disk)

    def wipe_spool(self) -> None:
        """The folder of the spool is deleted."""
        self._damage(Disk())

    def restore_spool(self) -> None:
        """An older copy of the spool is restored; and a copy is made for later."""
        backup, self._backup = self._backup, self.rig.disk.copy()
        self._damage((backup or self.rig.disk).copy())

    def forget(self) -> None:
        """The rig runs for longer than a consumer may be silent."""
        self.pass_time(FORGET_AFTER_S + 1.0)
        self.make_pairs(1, live=False)

    def _rejoin(self) -> None:
        for consumer in self.consumers:
            consumer.join()

    def _damage(self, disk: Disk) -> None:
        self.compare_records()
        self.rig.boot(disk)
        self.rig.note_damage()
        self._rejoin()


FAULTS = tuple(name for name in vars(FaultyWorld) if not name.startswith("_"))
"""All kinds of faults; each is a method of `FaultyWorld`."""
HARMLESS = (
    *("drop_live", "lose_replies", "break_link", "kill_consumer", "kill_in_commit", "acknowledge_for_another"),
    *("invent_names", "kill_rig", "stop_rig", "set_clock"),
)
"""What costs no pair where there are keys and the disk has room."""


def simulate(faults: int, seed: int, on_progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Run scripts with the seeds `seed`, `seed` + 1, ... until so many faults have happened; return the counts."""
    kinds, wrong, failures, scripts = Counter[str](), Counter[str](), list[str](), 0
    reported = 0
    while kinds.total() < faults:
        world = FaultyWorld(Random(seed + scripts), kinds=FAULTS)
        found = world.run(ACTIONS)
        kinds, wrong = kinds + world.faults, wrong + found
        if bad := [name for name in FAILURES if found[name]]:
            failures.append(f"seed {seed + scripts}: {', '.join(bad)}")
        scripts += 1
        if kinds.total() // PROGRESS > reported:
            reported = kinds.total() // PROGRESS
            on_progress(f"{kinds.total()} of {faults} faults, {len(failures)} failures")
    counts = {name: wrong[name] for name in (*FAILURES, "kept", "unseen", "counted", "refusals")}
    hits = {"faults": dict(sorted(kinds.items())), "hits": kinds.total(), "scripts": scripts}
    return {"failures": failures, **hits, **counts}
