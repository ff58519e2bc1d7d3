"""The processes of rigs and consumers, each with a disk and a clock of its own, and what can be done to them."""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path

import msgspec

from benchmarks.faults.check import Journal
from benchmarks.faults.damage import copy_over
from benchmarks.faults.rig import RigLoad, SpoolRigPlan
from benchmarks.shared.forked import Forked
from benchmarks.shared.link import Link
from benchmarks.shared.processes import Supervised

NOTICED_S = 10.0
"""Seconds within which a process that ends because of its disk is noticed, also if it was stalled."""
Damage = Callable[[Path], str]
"""Damages the files in a folder, and returns a description."""


class Disk:
    """The place of an actor's files: a small file system of its own where mounting is allowed, otherwise a folder.

    To simulate a full disk, one large file fills the file system; in a folder, no file of the process may grow (RLIMIT_FSIZE).
    A disk that is a folder cannot be made read-only.
    """

    def __init__(self, folder: Path, name: str, size_bytes: int) -> None:
        self.home = folder / "disk" / name
        self._folder = self.home.parent
        self._folder.mkdir(parents=True)
        self._fills = self._locks = 0
        self._healed_s = -inf
        self.mounted = _runs("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(self._folder))

    @property
    def refuses(self) -> bool:
        """Whether nothing could be written to it a moment ago, so that a process may have ended for that reason."""
        return bool(self._fills or self._locks or time.monotonic() - self._healed_s < NOTICED_S)

    def fill(self, more: int, pid: int | None) -> None:
        """Add (1) or remove (-1) a reason for the disk to be full; only the process itself can then make room, by deleting."""
        self._fills += more
        self._healed_s = time.monotonic()
        if self._fills:
            self.limit(pid)
            return
        if not self.mounted:
            _limit(pid, resource.RLIM_INFINITY)
        with suppress(OSError):  # read-only too: `lock` removes it
            (self._folder / "filler").unlink(missing_ok=True)

    def lock(self, more: int) -> None:
        """Add (1) or remove (-1) a reason for the disk to be read-only. No file may be open for writing."""
        self._locks += more
        self._healed_s = time.monotonic()
        if self.mounted:
            _runs("mount", "-o", f"remount,{'ro' if self._locks else 'rw'}", str(self._folder))
            if not self._locks and not self._fills:
                (self._folder / "filler").unlink(missing_ok=True)

    def limit(self, pid: int | None) -> None:
        """Apply a full disk to a new process."""
        if not self._fills:
            return
        if not self.mounted:
            _limit(pid, 0)
            return
        with suppress(OSError), (self._folder / "filler").open("ab", buffering=0) as file:
            for chunk in (bytes(1 << 20), bytes(1 << 12)):
                with suppress(OSError):  # full
                    while file.write(chunk) == len(chunk):
                        pass

    @contextmanager
    def writable(self) -> Iterator[None]:
        """Let the bench itself change files inside the context, though the disk is full or read-only. No process may run."""
        if self.mounted and self._locks:
            _runs("mount", "-o", "remount,rw", str(self._folder))
        (self._folder / "filler").unlink(missing_ok=True)
        yield
        self.limit(None)
        self.lock(0)

    def close(self, keep: Path | None) -> None:
        """Unmount the disk. keep: a folder to which the files are copied first."""
        if keep is not None and self.home.exists():
            shutil.copytree(self.home, keep, dirs_exist_ok=True)
        if self.mounted:
            self.mounted = not _runs("umount", str(self._folder))


class Actor:
    """A process with a disk and a clock of its own.

    home: name of the folder with its files. module: with its arguments. receive: called with each line that it reports.
    """

    def __init__(self, name: str, folder: Path, home: str, disk_bytes: int, receive: Callable[[str], None]) -> None:
        self.name = name
        self.disk = Disk(folder / name, home, disk_bytes)
        self.backup: Path | None = None
        """A copy of its files at an earlier time."""
        self._copy = folder / f"{name}.backup"
        self._clock, self._clock_s = folder / f"{name}.clock", 0.0
        self.process = Supervised(name, [], receive, folder / f"{name}.log", partial(Forked, clock=self._clock))

    @property
    def home(self) -> Path:
        """The folder with its files."""
        return self.disk.home

    @property
    def data(self) -> Path:
        """The folder that is backed up and damaged."""
        return self.home

    def run_module(self, module: str, *arguments: str) -> None:
        """Let the next start run this module."""
        self.process.command = ["-m", module, *arguments]

    def take_down(self, damage: Damage | None = None) -> str:
        """Kill the process and damage its files; return a description of the damage."""
        self.process.take_down()
        return "" if damage is None else self._damage(damage)

    def _damage(self, damage: Damage) -> str:
        with self.disk.writable():
            return damage(self.data)

    def back_up(self) -> None:
        """Copy its files, also beside a process that changes them, as a copying program does."""
        if self.data.is_dir():
            self._copy.mkdir(exist_ok=True)
            copy_over(self.data, self._copy)
            self.backup = self._copy

    def step_clock(self, seconds: float) -> None:
        """Move its clock by so many seconds."""
        self._clock_s += seconds
        draft = self._clock.with_suffix(".draft")
        draft.write_text(str(self._clock_s))
        draft.replace(self._clock)

    def fill(self, more: int) -> None:
        """Add (1) or remove (-1) one reason for its disk to be full."""
        self.disk.fill(more, self.process.pid)

    def close(self, keep: Path | None) -> None:
        """Free its disk. keep: a folder in which a copy of its files stays."""
        self.disk.close(None if keep is None else keep / f"{self.name}.files")


class RigProcess(Actor):
    """The process of a rig, with the links to it."""

    def __init__(self, device: str, folder: Path, links: Sequence[Link], load: RigLoad) -> None:
        super().__init__(device, folder, "spool", 2 * load.spool_bytes, self._receive)
        self.load = load
        self.journal = Journal()
        self.rests = False
        self.goes = False
        self.consumers = 0
        """Number of consumers for which its process keeps pairs."""
        self.links = links
        self.port: int | None = None
        self._linked_port: int | None = None
        rig_plan = SpoolRigPlan(device, str(self.home), load)
        self.run_module("benchmarks.faults.rig", msgspec.json.encode(rig_plan).decode())

    @property
    def device(self) -> str:
        """Its name in the headers of pairs."""
        return self.name

    def attend(self) -> None:
        """Act on the rig's reports: point the links to its port, and send a new process the orders that it does not know."""
        if self.process.pid is None:
            self.port, self.consumers = None, 0
        if self.port == self._linked_port:
            return
        self._linked_port = self.port
        for link in self.links:
            link.point_to(self.port)
        if self.port is not None:
            self.process.order("go" if self.goes else "rest")
            self.disk.limit(self.process.pid)

    def take_down(self, damage: Damage | None = None) -> str:
        """See `Actor`. Its links lead nowhere from now on."""
        self.process.take_down()
        self.attend()
        return "" if damage is None else self._damage(damage)

    def go(self, goes: bool) -> None:
        """Let the rig make pairs, or stop it from making them."""
        self.goes, self.rests = goes, False
        self.process.order("go" if goes else "rest")

    def _receive(self, line: str) -> None:
        match line.split():
            case ["listening", port]:
                self.port = int(port)
            case ["consumers", count]:
                self.consumers = int(count)
            case ["rests"]:
                self.rests = True
            case _:
                self.journal.add(line)


def _limit(pid: int | None, size_bytes: int) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


def _runs(*command: str) -> bool:
    """Return whether a command of the system exists and exits without an error."""
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False
