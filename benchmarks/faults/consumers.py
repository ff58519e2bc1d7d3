"""The consumers of the faults bench: a learner that only lists pairs, a real learner, and a real recorder.

`outcome` reads what a consumer has made durable; only `cursor` of the listing learner comes from the process itself.
"""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec

from benchmarks.faults import reading
from benchmarks.faults.actors import Actor, Damage
from benchmarks.faults.check import Cursor, Entered
from benchmarks.faults.damage import copy_over
from benchmarks.shared.link import Link
from benchmarks.shared.machine import HOST, free_port

DISK_BYTES = 1 << 30
CAPACITY = 100_000
"""Pairs that a real learner remembers: all of them."""
READ_S = 1.0
"""The files of a consumer are read again after this time."""
TINY = (
    *("--preset", "cpu", "--objective", "babyagent", "--holdout", "0"),
    *("--encoder.image-size", "16", "--encoder.embed-dim", "32", "--encoder.depth", "1"),
    *("--encoder.heads", "2", "--objective.attention-size", "16", "--objective.teacher-size", "16"),
    *("--objective.student-size", "16", "--objective.prototypes", "16", "--objective.hidden", "32"),
    *("--objective.crops", "2", "--pacing.batch-size", "32", "--pacing.replay-ratio", "1", "--control"),
    *("--memory.capacity", str(CAPACITY), "--memory.canvas", "16", "16", "--guard.patience-steps", "1000000"),
    *("--threads", "1", "--commit-every-s", "1", "--probe-every-s", "100000"),
)
"""The smallest learner that trains: what it learns does not matter here."""


class Consumer(Actor, ABC):
    """A process that receives the pairs of all rigs and makes them durable."""

    def __init__(self, name: str, folder: Path, links: Sequence[Link]) -> None:
        super().__init__(name, folder, "data", DISK_BYTES, self._receive)
        self.home.mkdir()
        self.endpoints = [f"tcp://{HOST}:{link.port}" for link in links]
        self.malformed: dict[str, int] = {}

    @property
    def ready(self) -> bool:
        """Whether it has committed something, so that it knows its rigs after a restart."""
        return True

    @property
    def cursor(self) -> Cursor:
        """What it has committed, as far as that is known cheaply."""
        return self.outcome()[1]

    @abstractmethod
    def outcome(self) -> tuple[list[Entered], Cursor]:
        """Return the pairs that have entered and the cursor, both of its newest commit."""

    def _receive(self, line: str) -> None:
        """Act on a reported line."""


class ListingProcess(Consumer):
    """The process of `benchmarks.faults.learner`, and the last cursor that it has reported."""

    def __init__(self, name: str, folder: Path, links: Sequence[Link]) -> None:
        super().__init__(name, folder, links)
        self._cursor: Cursor = {}
        self._ready = False
        self.run_module("benchmarks.faults.learner", str(self.home / "pairs.sqlite"), *self.endpoints)

    @property
    def ready(self) -> bool:
        """See `Consumer`."""
        return self._ready

    @property
    def cursor(self) -> Cursor:
        """See `Consumer`."""
        return self._cursor

    def outcome(self) -> tuple[list[Entered], Cursor]:
        """See `Consumer`."""
        store = self.home / "pairs.sqlite"
        return [reading.listed(item) for item in reading.committed_items(store)], reading.committed_cursor(store)

    def _receive(self, line: str) -> None:
        word, _, value = line.partition(" ")
        match word:
            case "ready":
                self._ready = True
            case "committed":
                self._cursor = msgspec.json.decode(value)
            case "malformed":
                self.malformed = msgspec.json.decode(value)


class LearnerProcess(Consumer):
    """The process of `python -m learner`. After damage it may refuse to start, if it says so in one line and touches nothing."""

    def __init__(self, name: str, folder: Path, links: Sequence[Link]) -> None:
        super().__init__(name, folder, links)
        self._rigs = len(links)
        self._moves = 0
        self._whole = folder / f"{name}.whole"
        self._suspected: dict[str, bytes] | None = None
        self._suspected_commits: set[tuple[str, int]] = set()
        self.page_port = free_port()
        self.complaints: list[str] = []
        """What a refusal did that it must not do."""
        self._aim()

    @property
    def ready(self) -> bool:
        """See `Consumer`. Its first commit is from before its first contact; back there, it is new to a rig without its list."""
        return len(self.cursor.get("devices", ())) == self._rigs

    @property
    def cursor(self) -> Cursor:
        """See `Consumer`."""
        return reading.committed_cursor(self.data / "pairs.sqlite")

    def outcome(self) -> tuple[list[Entered], Cursor]:
        """See `Consumer`."""
        items = reading.committed_items(self.data / "pairs.sqlite")
        return [reading.remembered(item) for item in items], self.cursor

    def take_down(self, damage: Damage | None = None) -> str:
        """See `Actor`. What is whole now is kept, in case that the next process refuses the damaged run."""
        self.process.take_down()
        if damage is not None and self._suspected is None:
            self._whole.mkdir(exist_ok=True)
            copy_over(self.data, self._whole)
        detail = "" if damage is None else self._damage(damage)
        if damage is not None or self._suspected is not None:
            self._suspected, self._suspected_commits = dict(_contents(self.data)), self._commits()
        return detail

    def move(self, _home: Path) -> str:
        """Copy the run to another place, where it goes on as the only one."""
        before, self._moves = self.data, self._moves + 1
        if before.is_dir():
            shutil.copytree(before, self.data)
            shutil.rmtree(before)
        self._aim()
        return f"the run goes on in {self.data.name}"

    def has_refused(self) -> bool:
        """Return whether a process that ended by itself has refused a damaged run; what was damaged is then whole again."""
        if self._suspected is None or self._commits() - self._suspected_commits:
            self._suspected = None  # it went on
            return False
        log = self.process.log.read_bytes()[self.process.said_from :].decode(errors="replace")
        if "Traceback" in log or log.count("error: ") != 1:
            self.complaints.append(f"a refusal is not one line: {log[-300:]}")
        now = dict(_contents(self.data))
        if changed := [name for name, data in self._suspected.items() if now.get(name) != data]:
            self.complaints.append(f"a refused run was changed: {', '.join(changed)}")
        with self.disk.writable():
            copy_over(self._whole, self.data)
        self._suspected = None
        return True

    def _commits(self) -> set[tuple[str, int]]:
        """Return the folders of its commits; a new one of the same name has another inode."""
        return {(path.name, path.stat().st_ino) for path in self.data.glob("checkpoints/commit-*")}

    @property
    def data(self) -> Path:
        """See `Actor`: the run directory."""
        return self.home / f"run{self._moves}"

    def _aim(self) -> None:
        where = ("--run-dir", str(self.data), "--http-port", str(self.page_port))
        self.run_module("learner", *TINY, *where, "--connect", *self.endpoints)


class RecorderProcess(Consumer):
    """The process of `python -m stream record`, and all files of its recording."""

    def __init__(self, name: str, folder: Path, links: Sequence[Link]) -> None:
        super().__init__(name, folder, links)
        self._read: tuple[float, Cursor] = (0.0, {})
        self.run_module("stream", "record", "--out", str(self.home / "walk.mcap"), "--connect", *self.endpoints)

    @property
    def cursor(self) -> Cursor:
        """See `Consumer`."""
        if time.monotonic() - self._read[0] > READ_S:
            self._read = time.monotonic(), self.outcome()[1]
        return self._read[1]

    def outcome(self) -> tuple[list[Entered], Cursor]:
        """See `Consumer`."""
        return reading.recorded(sorted(self.home.glob("*.mcap")))


def _contents(home: Path) -> Iterator[tuple[str, bytes]]:
    """Yield names and checksums of all files that a refusal must leave alone."""
    for path in home.rglob("*"):
        if path.is_file() and not path.name.endswith("-shm"):
            yield str(path.relative_to(home)), blake2b(path.read_bytes()).digest()
