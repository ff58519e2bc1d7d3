"""A store whose process is killed, whose disk is full, or which does anything in any order: each commit stays whole."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stored import connection_of, expected, fill, item_of, restored
from waiting import WAIT_S, until

from buffer.patience import Patience
from buffer.store import Store
from buffer.store_file import RESTORABLE
from buffer.store_reader import StoreError

ROOT = Path(__file__).parents[1]


CHILD = """
import random, resource, sys
from pathlib import Path
from buffer.store import Store
from buffer.store_reader import StoreError
from stored import item_of

path, limit_bytes = Path(sys.argv[1]), int(sys.argv[2])
if limit_bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
try:
    with Store(path, queue_bytes=1 << 16) as store:
        if not limit_bytes:  # so that some are killed while SQLite carries things over
            store.rewind(max((commit.number for commit in store.commits()), default=0))
            store._file.connection.execute("PRAGMA wal_autocheckpoint = 20")
        commits = store.commits()
        print("ready", flush=True)
        kept = commits[0].keys.tolist() if commits else []
        key = kept[-1] + 1 if kept else 0
        draw = random.Random(key)
        most = 1000 if limit_bytes else 15  # only a store that grows fills the disk
        while True:
            for key in range(key, key + draw.randrange(1, 20)):
                store.put(key, item_of(key))
                kept.append(key)
            kept = sorted(draw.sample(kept, min(len(kept), most)) + [key])[-most:]
            key += 1
            snapshot = list(dict.fromkeys(kept))
            done = store.commit(snapshot, b"%d" % snapshot[-1])
            if draw.random() < 0.5:
                done.result()
                print(snapshot[-1], flush=True)
except StoreError as error:
    print(error)
    sys.exit(1)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "items.sqlite"


def child(path: Path, limit_bytes: int = 0) -> subprocess.Popen[str]:
    """A process that puts and commits without end, and says which commits are durable: each by its largest key."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-c", CHILD, str(path), str(limit_bytes)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True)


def test_a_process_killed_at_any_moment_leaves_its_newest_commit_whole(path: Path) -> None:
    """Each next process goes on from what the last one left."""
    draw = random.Random(5)
    newest, durable = -1, 0
    for _ in range(12):
        process = child(path)
        assert process.stdout is not None
        _, *said = [process.stdout.readline() for _ in range(draw.randrange(1, 10))]
        time.sleep(draw.uniform(0, 0.02))  # somewhere between two commits; nothing below depends on how far it came
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        process.communicate(timeout=WAIT_S)
        durable += len(said)
        copy = path.with_name("copy")
        copy.mkdir()
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copy(file, copy)
        with Store(copy / path.name) as store:
            found = restored(store)
        shutil.rmtree(copy)
        reached = [int(note) for note, _ in found]
        assert found == expected(*((b"%d" % key, list(items)) for key, (_, items) in zip(reached, found, strict=True)))
        assert len(reached) >= min(RESTORABLE, durable)
        assert not reached or reached[0] >= max([newest, *map(int, said)])
        newest = reached[0] if reached else newest
    assert newest > 100


def test_a_full_disk_is_one_line_and_the_newest_commit_stays_whole(path: Path) -> None:
    """As much as the process may write to a file stands in for the disk."""
    for limit_bytes in (40_000, 300_000, 1_000_003):
        process = child(path, limit_bytes)
        *said, error = process.communicate(timeout=WAIT_S)[0].split("\n")[:-1]
        assert process.returncode == 1
        assert error.startswith(f"{path} cannot be ")
        with Store(path) as store:
            found = restored(store)
        durable = [int(line) for line in said if line != "ready"]
        assert [int(note) for note, _ in found][:1] >= durable[-1:]
        assert all(bytes_ == item_of(key) for _, items in found for key, bytes_ in items.items())
    assert found


def test_a_patient_store_waits_for_room_and_loses_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bound on the file's pages stands in for the disk: SQLite answers as it does to a full one."""
    with Store(path, queue_bytes=4500, patience=Patience(0.02)) as store:
        fill(store, range(3))
        store.commit(range(3), b"before").result()
        connection_of(store).execute("PRAGMA max_page_count = 1")  # as many as there are
        key = 3
        while store.put(key, bytes(3000), timeout_s=0.3):
            key += 1
        done = store.commit(range(1, key), b"while it was full")
        with pytest.raises(TimeoutError):
            done.result(0.1)
        assert [commit.note for commit in store.commits()] == [b"before"]
        until(lambda: "is full): make room on its disk" in caplog.text)
        connection_of(store).execute("PRAGMA max_page_count = 100000")
        done.result(WAIT_S)
        assert store.put(key, bytes(3000), timeout_s=WAIT_S)
        store.commit(range(2, key + 1), b"after").result(WAIT_S)
    with Store(path) as again:
        assert [commit.note for commit in again.commits()] == [b"after", b"while it was full"]
        assert [len(item) for item in again.items(range(3, key + 1))] == [3000] * (key - 2)


@pytest.mark.parametrize("how", ["told", "closed"])
def test_whoever_ends_does_not_wait_for_room(path: Path, how: str) -> None:
    patience = Patience(60.0)
    with Store(path, patience=patience) as store:
        store.commit([], b"before").result()
        connection_of(store).execute("PRAGMA max_page_count = 1")
        done = store.commit([], bytes(200_000))
        with pytest.raises(TimeoutError):
            done.result(0.1)
        if how == "told":
            patience.end()
            with pytest.raises(StoreError, match="full"):
                done.result(WAIT_S)
    with pytest.raises(StoreError, match="full"):
        done.result(WAIT_S)
    with Store(path) as again:
        assert [commit.note for commit in again.commits()] == [b"before"]


class Storing(RuleBasedStateMachine):
    """Any order of puts, commits, restarts and crashes, beside a dict and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.generation = 0
        self.notes = itertools.count()
        self.durable: Future[None] = Future()
        self.durable.set_result(None)
        self.begin()
        self.key = -1
        self.live: dict[int, bytes] = {}
        self.commits: list[tuple[bytes, dict[int, bytes]]] = []

    @property
    def path(self) -> Path:
        return self.folder / f"{self.generation}.sqlite"

    def begin(self) -> None:
        self.store = Store(self.path, queue_bytes=5000)
        self.store.rewind(max((commit.number for commit in self.store.commits()), default=0))

    @rule(step=st.integers(1, 5), item=st.binary(max_size=6000))
    def put(self, step: int, item: bytes) -> None:
        self.key += step
        self.store.put(self.key, item)
        self.live[self.key] = item

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        note = b"%d" % next(self.notes)
        keys = sorted(data.draw(st.sets(st.sampled_from(sorted(self.live))))) if self.live else []
        self.durable = self.store.commit(np.array(keys, np.int64), note)
        if data.draw(st.booleans()):
            self.durable.result()
        self.commits = [(note, {key: self.live[key] for key in keys}), *self.commits][:RESTORABLE]
        newer = {key: item for key, item in self.live.items() if not keys or key > keys[-1]}
        self.live = dict(sorted({**self.named(), **newer}.items()))

    def named(self) -> dict[int, bytes]:
        return {key: item for _, items in self.commits for key, item in items.items()}

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.reopen()

    @rule()
    def crash(self) -> None:
        """What is in the files when the writer has caught up, as a kill would leave it.

        A commit can be read before its log is in the file: the log would move between the copies of the two.
        """
        self.durable.result(WAIT_S)
        until(lambda: self.rows() >= self.live.keys())
        for suffix in ("", "-wal"):
            shutil.copy(f"{self.path}{suffix}", self.folder / f"{self.generation + 1}.sqlite{suffix}")
        self.store.close()
        self.generation += 1
        self.reopen()

    def rows(self) -> set[int]:
        connection = sqlite3.connect(self.path)
        found = {key for (key,) in connection.execute("SELECT key FROM items")}
        connection.close()
        return found

    def reopen(self) -> None:
        self.begin()
        self.live = self.named()
        self.key = max(self.live, default=-1)

    @precondition(lambda self: len(self.commits) == RESTORABLE)
    @rule()
    def go_back(self) -> None:
        self.store.close()
        self.store = Store(self.path, queue_bytes=5000)
        self.store.rewind(self.store.commits()[1].number)
        self.commits = self.commits[1:]
        self.live = self.named()
        self.key = max(self.live, default=-1)

    @invariant()
    def what_can_be_restored_is_what_was_committed(self) -> None:
        until(lambda: [commit.note for commit in self.store.commits()] == [note for note, _ in self.commits])
        assert restored(self.store) == self.commits

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)


TestStoring = Storing.TestCase
TestStoring.settings = settings(max_examples=30, stateful_step_count=30)
