"""The store: exactly at a commit whatever is killed, full or flipped; beside it a dict that cannot crash."""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import connection_of, expected, fill, item_of, newer, restored
from waiting import WAIT_S, until

from buffer.store import Store
from buffer.store_reader import StoreError, StoreReader


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
