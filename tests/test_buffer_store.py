"""The store: exactly at a commit whatever is killed, full or flipped; beside it a dict that cannot crash."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from waiting import WAIT_S, until

from buffer.patience import Patience
from buffer.store import Store
from buffer.store_file import RESTORABLE
from buffer.store_reader import StoreError, StoreReader

ROOT = Path(__file__).parents[1]


def item_of(key: int, size: int = 3000) -> bytes:
    """The bytes that lie under a key, so that a swapped row is found: long enough for overflow pages, some of them empty."""
    return random.Random(key).randbytes(size * (key % 7) // 3)


def connection_of(store: Store) -> sqlite3.Connection:
    """The connection of a store that has begun to write."""
    assert store._file is not None
    return store._file.connection


def restored(store: StoreReader) -> list[tuple[bytes, dict[int, bytes]]]:
    """All that can be restored: note and items of each commit, newest first."""
    return [
        (commit.note, dict(zip(commit.keys.tolist(), store.items(commit.keys), strict=True)))
        for commit in store.commits()
    ]


def expected(*commits: tuple[bytes, list[int]]) -> list[tuple[bytes, dict[int, bytes]]]:
    return [(note, {key: item_of(key) for key in keys}) for note, keys in commits]


def fill(store: Store, keys: range) -> None:
    for key in keys:
        store.put(key, item_of(key))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "items.sqlite"


def test_a_new_store_is_empty_and_keeps_its_identity(path: Path) -> None:
    with Store(path) as store:
        identity = store.identity
        assert len(identity) == 32
        assert store.commits() == []
        assert not path.exists()
        store.rewind(0)
        assert store.commits() == []
    with Store(path) as again, Store(path.with_name("other")) as other:
        assert again.identity == identity != other.identity


def test_the_identity_of_a_store_may_begin_with_a_name(path: Path) -> None:
    for name in ("first-my.host", "other"):  # only a new file takes it
        with Store(path, name=name) as store:
            assert re.fullmatch("first-my.host-[0-9a-f]{16}", store.identity)
            store.rewind(0)


def test_what_was_committed_is_there_when_the_file_is_opened_again(path: Path) -> None:
    with Store(path) as store:
        fill(store, range(20))
        store.commit(np.array([2, 5, 19]), b"first").result()
        assert restored(store) == expected((b"first", [2, 5, 19]))
    with Store(path) as again:
        assert restored(again) == expected((b"first", [2, 5, 19]))
        assert [commit.number for commit in again.commits()] == [1]


def test_a_reader_beside_the_writer_finds_what_was_committed_and_takes_nothing_away(path: Path) -> None:
    with Store(path) as store:
        fill(store, range(6))
        store.commit([0, 3], b"first").result()
        reader = StoreReader(path)
        assert restored(reader) == expected((b"first", [0, 3]))
        store.commit([3, 5], b"second").result()  # 5 was named by no commit when it was read
        assert restored(reader) == expected((b"second", [3, 5]), (b"first", [0, 3]))
    before = path.read_bytes()
    assert restored(StoreReader(path)) == expected((b"second", [3, 5]), (b"first", [0, 3]))
    assert path.read_bytes() == before


def test_a_reader_makes_no_file_where_there_is_none(path: Path) -> None:
    with pytest.raises(StoreError, match=r"items\.sqlite cannot be read"):
        StoreReader(path).commits()
    assert not path.exists()


def test_what_no_commit_names_is_gone_with_the_first_write_after_the_file_is_opened_again(path: Path) -> None:
    with Store(path) as store:
        fill(store, range(5))
        store.commit([0, 1], b"").result()
        fill(store, range(5, 9))
    before = path.read_bytes()
    with Store(path) as again:
        assert list(again.items(range(9))) == [item_of(key) for key in range(9)]
    assert path.read_bytes() == before
    with Store(path) as again:
        again.rewind(1)
        for key in range(2, 9):
            with pytest.raises(StoreError, match=f"item {key} is missing"):
                list(again.items([key]))
        again.put(2, item_of(2))
        again.commit([0, 2], b"").result()
        assert list(again.items([2, 0])) == [item_of(2), item_of(0)]


def test_an_item_put_after_the_committed_state_stays_for_the_next_commit(path: Path) -> None:
    """The state is committed some time after it was copied; meanwhile more came."""
    with Store(path) as store:
        fill(store, range(10))
        store.commit([1, 6], b"the state after seven")
        store.commit([1, 8, 9], b"the state after ten").result()
        assert restored(store)[0] == expected((b"the state after ten", [1, 8, 9]))[0]


def test_the_last_two_commits_can_be_restored_and_the_rest_is_free_for_what_comes(path: Path) -> None:
    with Store(path) as store:
        for number in range(60):
            fill(store, range(10 * number, 10 * number + 10))
            store.commit(range(10 * number, 10 * number + 10), b"%d" % number).result()
        assert restored(store) == expected((b"59", [*range(590, 600)]), (b"58", [*range(580, 590)]))
        assert [commit.number for commit in store.commits()] == [60, 59]
    rows = sum(len(item_of(key)) for key in range(600))
    assert path.stat().st_size < rows / 8


def test_an_empty_commit_is_one(path: Path) -> None:
    with Store(path) as store:
        store.commit([], b"nothing yet").result()
        fill(store, range(3))
        store.commit([0, 1, 2], b"three").result()
        assert restored(store) == expected((b"three", [0, 1, 2]), (b"nothing yet", []))


def test_after_going_back_to_a_commit_it_is_the_newest_and_its_keys_go_on(path: Path) -> None:
    with Store(path) as store:
        fill(store, range(10))
        store.commit([3, 4], b"good").result()
        store.commit([4, 9], b"bad").result()
    with Store(path) as again:
        again.rewind(again.commits()[1].number)
        assert restored(again) == expected((b"good", [3, 4]))
        again.put(5, item_of(5))
        again.commit([4, 5], b"better").result()
        assert restored(again) == expected((b"better", [4, 5]), (b"good", [3, 4]))


@pytest.mark.parametrize("key", [-1, 4, 3, 1 << 63])
def test_a_key_that_does_not_rise_is_refused(key: int, path: Path) -> None:
    with Store(path) as store:
        store.put(4, b"four")
        with pytest.raises(ValueError, match="a key must be above 4 and below"):
            store.put(key, b"")
        store.put(5, b"")
        store.commit([4, 5], b"").result()


@pytest.mark.parametrize("keys", [[1, 1], [2, 1], [0.5], [[1]], "ab"])
def test_a_commit_of_anything_but_rising_keys_is_refused(keys: object, path: Path) -> None:
    with Store(path) as store, pytest.raises(ValueError, match="keys"):
        store.commit(keys, b"")  # type: ignore[arg-type]


def test_a_commit_of_a_key_that_was_never_put_ends_the_writing(path: Path) -> None:
    with Store(path) as store:
        fill(store, range(3))
        store.commit([0, 2], b"good").result()
        with pytest.raises(StoreError, match=r"1 keys of a commit were never put, such as \[7\]"):
            store.commit([0, 7], b"bad").result()
        with pytest.raises(StoreError, match="never put"):
            store.put(8, b"")
        with pytest.raises(StoreError, match="never put"):
            store.commit([0], b"").result()
        assert restored(store) == expected((b"good", [0, 2]))


def test_closing_writes_what_waits_and_a_closed_store_takes_nothing(path: Path) -> None:
    store = Store(path)
    fill(store, range(50))
    done = store.commit(range(50), b"late")
    store.close()
    store.close()
    assert done.done()
    with pytest.raises(ValueError, match="closed"):
        store.put(50, b"")
    with Store(path) as again:
        assert restored(again) == expected((b"late", [*range(50)]))


def test_a_full_queue_blocks_until_there_is_room_again(path: Path) -> None:
    """Another connection holds the file, so that the writer cannot go on."""
    accepted: list[int] = []

    def put() -> None:
        for key in range(30):
            store.put(key, bytes(1000))
            accepted.append(key)

    with Store(path, queue_bytes=4500) as store:
        store.rewind(0)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        thread = threading.Thread(target=put)
        thread.start()
        until(lambda: len(accepted) >= 5)
        thread.join(0.3)  # one that is accepted too many is seen; this is not waited for in vain
        assert accepted == [0, 1, 2, 3, 4]
        other.execute("ROLLBACK")
        other.close()
        thread.join(WAIT_S)
        store.commit(range(30), b"").result()
        assert sum(map(len, store.items(range(30)))) == 30_000


def test_items_are_read_while_others_are_written(path: Path) -> None:
    with Store(path) as store:
        fill(store, range(50))
        store.commit(range(50), b"").result()
        read = store.items(range(50))
        fill(store, range(50, 100))
        store.commit(range(40, 100), b"").result()
        fill(store, range(100, 120))
        assert list(read) == [item_of(key) for key in range(50)]


def test_a_commit_is_synced_to_the_disk_before_it_is_done(path: Path) -> None:
    """A power cut cannot be had here: what SQLite is told has to do."""
    said: list[str] = []
    with Store(path) as store:
        store.put(0, b"")
        connection_of(store).set_trace_callback(said.append)
        store.commit([0], b"").result()
    at = next(index for index, text in enumerate(said) if text.startswith("INSERT INTO commits"))
    assert [text for text in said[:at] if "synchronous" in text][-1] == "PRAGMA synchronous = FULL"
    assert "COMMIT" in said[at:]


def damaged(path: Path) -> None:
    """A store of one commit over items 0 to 9."""
    with Store(path) as store:
        fill(store, range(10))
        store.commit(range(10), b"note").result()


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def test_a_flipped_bit_in_an_item_is_told_by_its_key_and_the_others_are_there(path: Path) -> None:
    damaged(path)
    flip(path, path.read_bytes().index(item_of(5)[1000:1100]))
    with Store(path) as store:
        assert list(store.items([4, 6])) == [item_of(4), item_of(6)]
        with pytest.raises(StoreError, match=r"item 5 is damaged\): restore it from a copy") as told:
            list(store.items(range(10)))
        assert "\n" not in str(told.value)
        assert str(path) in str(told.value)


def test_a_damaged_commit_gives_way_to_the_one_before_and_is_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store(path) as store:
        fill(store, range(4))
        store.commit([0, 1], b"the first note").result()
        store.commit([2, 3], b"the second note").result()
    flip(path, path.read_bytes().index(b"the second note"))
    with Store(path) as again:
        assert restored(again) == expected((b"the first note", [0, 1]))
    assert "commit 2 of the store is damaged" in caplog.text


def use(path: Path) -> list[tuple[bytes, dict[int, bytes]]] | None:
    """Open, read everything, write and read again: what was there; None where it ended with an error, in one line."""
    try:
        with Store(path) as store:
            found = restored(store)
            largest = max((key for _, items in found for key in items), default=-1)
            store.put(largest + 1, b"new")
            store.commit([largest + 1], b"new").result()
            assert restored(store)[0] == (b"new", {largest + 1: b"new"})
    except StoreError as error:
        if "\n" in str(error):
            raise
        return None
    return found


@given(data=st.data())
@settings(max_examples=150)
def test_flipped_bits_anywhere_are_one_error_or_nothing_but_never_wrong_bytes(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "items.sqlite"
        damaged(path)
        places = st.integers(0, path.stat().st_size - 1) | st.integers(0, 4095) | st.integers(4096, 4 * 4096)
        for at, bit in data.draw(st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=4)):
            flip(path, at, bit)
        found = use(path)
        assert found in (None, expected((b"note", [*range(10)])))


@given(length=st.integers(0, 40_000))
@settings(max_examples=60)
def test_a_file_cut_anywhere_is_one_error_or_a_new_store(length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "items.sqlite"
        damaged(path)
        whole = path.stat().st_size
        os.truncate(path, min(length, whole))
        found = use(path)
        assert found == ([] if length == 0 else expected((b"note", [*range(10)])) if length >= whole else None)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE letters (text TEXT)")
    connection.close()


def newer(path: Path) -> None:
    with Store(path) as store:
        store.rewind(0)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "another program's file": (foreign, "another program's file"),
    "a newer version's file": (newer, "a newer version of this program wrote it"),
    "text": (lambda path: path.write_text("Dear diary, " * 500), "file is not a database"),
    "a short text": (lambda path: path.write_text("mine"), "file is not a database"),
    "a folder": (Path.mkdir, "unable to open"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_store_is_refused_in_one_line_and_left_as_it_was(name: str, path: Path) -> None:
    make, said = FOREIGN[name]
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match=rf"cannot be opened \(.*{said}.*\): restore it .* or choose") as refused:
        Store(path)
    assert "\n" not in str(refused.value)
    assert (path.read_bytes() if path.is_file() else None) == before
    assert [other for other in path.parent.iterdir() if other != path] == []


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "none" / "items.sqlite")


CHILD = """
import random, resource, sys
from pathlib import Path
from buffer.store import Store
from buffer.store_reader import StoreError
from test_buffer_store import item_of

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
