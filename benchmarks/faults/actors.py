"""The processes of a rig, with its disk, and of a learner: the orders that they get, and the state that they report."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from benchmarks.faults.check import Journal
from benchmarks.faults.rig import RigLoad, SpoolRigPlan
from benchmarks.shared.link import Link
from benchmarks.shared.processes import Supervised
from stream.source import Cursor


class Disk:
    """The place of a rig's spool: a small file system of its own where mounting is allowed, otherwise a folder.

    To simulate a full disk, one large file fills the file system; in a folder, no file of the rig may grow (RLIMIT_FSIZE).
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.spool = folder / "disk" / "spool"
        self._folder = self.spool.parent
        self._folder.mkdir(parents=True)
        self.mounted = _runs("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(self._folder))

    def fill(self, pid: int | None) -> None:
        """Make the disk full; only the rig itself can make room, by deleting."""
        if not self.mounted:
            _limit(pid, 0)
            return
        with (self._folder / "filler").open("ab", buffering=0) as file:
            for chunk in (bytes(1 << 20), bytes(1 << 12)):
                with suppress(OSError):  # full
                    while file.write(chunk) == len(chunk):
                        pass

    def free(self, pid: int | None) -> None:
        """Make room again."""
        if not self.mounted:
            _limit(pid, resource.RLIM_INFINITY)
        (self._folder / "filler").unlink(missing_ok=True)

    def close(self, keep: Path | None) -> None:
        """Unmount the disk. keep: a folder to which the spool is copied first."""
        if keep is not None:
            shutil.copytree(self.spool, keep, dirs_exist_ok=True)
        if self.mounted:
            self.mounted = not _runs("umount", str(self._folder))


class RigProcess:
    """The process of a rig, with its disk and the links to it."""

    def __init__(self, device: str, folder: Path, links: Sequence[Link], load: RigLoad) -> None:
        self.device = device
        self.load = load
        self.journal = Journal()
        self.disk = Disk(folder, 2 * load.spool_bytes)
        self.rests = False
        self.goes = False
        self.links = links
        self._port: int | None = None
        self._linked_port: int | None = None
        self._clock_s = 0.0
        self._fills = 0
        rig_plan = SpoolRigPlan(device, str(self.disk.spool), load)
        command = ["-m", "benchmarks.faults.rig", msgspec.json.encode(rig_plan).decode()]
        self.process = Supervised(device, command, self._receive, folder / f"{device}.log")

    def attend(self) -> None:
        """Act on the rig's reports: point the links to its port, and send a new process the orders that it does not know."""
        if not self.process.check():
            self._port = None
        if self._port == self._linked_port:
            return
        self._linked_port = self._port
        for link in self.links:
            link.point_to(self._port)
        if self._port is not None:
            self.process.order(f"clock {self._clock_s}")
            self.process.order("go" if self.goes else "rest")
            if self._fills:
                self.disk.fill(self.process.pid)

    def take_down(self, damage: Callable[[Path], str]) -> str:
        """Kill the process and damage its spool; return a description of the damage."""
        self.process.take_down()
        self._port = None
        self.attend()
        return damage(self.disk.spool)

    def step_clock(self, seconds: float) -> None:
        """Move the rig's clock by so many seconds."""
        self._clock_s += seconds
        self.process.order(f"clock {self._clock_s}")

    def fill(self, more: int) -> None:
        """Add (1) or remove (-1) one reason for the disk to be full."""
        self._fills += more
        (self.disk.fill if self._fills else self.disk.free)(self.process.pid)

    def go(self, goes: bool) -> None:
        """Let the rig make pairs, or stop it from making them."""
        self.goes, self.rests = goes, False
        self.process.order("go" if goes else "rest")

    def _receive(self, line: str) -> None:
        match line.split():
            case ["listening", port]:
                self._port = int(port)
            case ["rests"]:
                self.rests = True
            case _:
                self.journal.add(line)


class LearnerProcess:
    """The process of a learner, and the last cursor that it has committed."""

    def __init__(self, name: str, folder: Path, links: Sequence[Link]) -> None:
        self.store = folder / f"{name}.sqlite"
        self.cursor: Cursor = {}
        self.ready = False
        self.malformed: dict[str, int] = {}
        endpoints = [f"tcp://127.0.0.1:{link.port}" for link in links]
        command = ["-m", "benchmarks.faults.learner", str(self.store), *endpoints]
        self.process = Supervised(name, command, self._receive, folder / f"{name}.log")

    def _receive(self, line: str) -> None:
        word, _, value = line.partition(" ")
        match word:
            case "ready":
                self.ready = True
            case "committed":
                self.cursor = msgspec.json.decode(value)
            case "malformed":
                self.malformed = msgspec.json.decode(value)


def _limit(pid: int | None, size_bytes: int) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


def _runs(*command: str) -> bool:
    """Return whether a command of the system exists and exits without an error."""
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False
