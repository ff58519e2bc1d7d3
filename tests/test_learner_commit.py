"""Commits: one instant of the learner, whatever happens beside it; what is damaged gives way to what is whole."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from committing import run
from hypothesis import given
from hypothesis import strategies as st
from learner_state import digest
from tiny_learner import TINY, committed, make_pair, tiny_learner
from waiting import until

from buffer.store import Store
from learner.errors import LearnerError
from learner.runs.checkpoint import CheckpointFolder, save_checkpoint
from learner.runs.commit import copy_state, pack, unpack
from learner.runs.folder import RunDirectory
from learner.runs.note import Note
from learner.runs.restore import restore
from stream.errors import MalformedMessage

ROOT = Path(__file__).parents[1]


@contextmanager
def held(store: Path) -> Iterator[None]:
    """Nobody else can write to the store meanwhile."""
    connection = sqlite3.connect(store, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("ROLLBACK")
    connection.close()


def test_a_learner_goes_on_from_its_last_commit_as_if_never_stopped(tmp_path: Path) -> None:
    """Cut before the first step, before the reservoir is full, and after."""
    with run(tmp_path / "whole") as whole:
        whole.train(29)
    for steps in (0, 3, 9, 12, 4, 1):
        with run(tmp_path / "cut") as cut:
            before = digest(cut.learner)
            cut.train(steps)
            cut.committer.finish()
            assert (digest(cut.learner) != before) is bool(steps)
    resumed = committed(tmp_path / "cut")
    assert resumed.steps == 29
    assert digest(resumed) == digest(whole.learner)


def test_what_is_committed_is_the_state_as_it_was_when_the_commit_began(tmp_path: Path) -> None:
    """Training goes on while the folder is not even begun."""
    with run(tmp_path) as a:
        a.train(4)
        began, released = digest(a.learner), threading.Event()
        a.writer.submit(released.wait)
        a.committer.begin()
        given = a.source.cursor()["given"]
        a.train(10)
        assert a.source.cursor()["given"] > given
        released.set()
        a.committer.settle(wait=True)
        assert a.source.acknowledged == [given]
        assert digest(committed(tmp_path)) == began  # also reads the store while it is open
    with run(tmp_path) as b:
        assert digest(b.learner) == began
        assert b.source.cursor()["given"] == given


def test_the_last_commit_waits_for_the_one_in_flight(tmp_path: Path) -> None:
    with run(tmp_path) as a:
        a.train(4)
        began, released = digest(a.learner), threading.Event()
        a.writer.submit(released.wait)
        a.committer.begin()
        a.train(10)
        threading.Timer(0.1, released.set).start()
        a.committer.finish()
        assert len(a.source.acknowledged) == 2
        assert a.names() == ["commit-000001-step-4", "commit-000002-step-14"]
        assert digest(committed(tmp_path)) == digest(a.learner)
    damage(tmp_path / "checkpoints" / "commit-000002-step-14" / "state.json")
    assert digest(committed(tmp_path)) == began


def test_acopy_state_state_shares_nothing_with_what_it_wascopy_state_from() -> None:
    state: dict[str, Any] = {
        "tensors": [torch.arange(3), torch.ones(2, 2).T],
        "array": np.arange(3),
        "deep": {0: (1, None)},
    }
    copies: dict[str, torch.Tensor] = {}
    first = copy_state(state, copies)
    state["tensors"][0].zero_()
    state["array"][0] = 7
    assert first["tensors"][0].tolist() == first["array"].tolist() == [0, 1, 2]
    assert first["deep"] == {0: [1, None]}
    second = copy_state(state, copies)
    assert second["tensors"][0] is first["tensors"][0]
    assert second["tensors"][0].tolist() == [0, 0, 0]
    wider = copy_state({"tensors": [torch.arange(4)]}, copies)
    assert wider["tensors"][0].tolist() == [0, 1, 2, 3]


def test_a_pair_is_acknowledged_only_once_its_commit_is_durable(tmp_path: Path) -> None:
    with run(tmp_path) as a:
        with held(RunDirectory(tmp_path, TINY).store):
            a.train(2)
            a.committer.begin()
            a.committer.settle()
            assert a.committer.in_flight
            assert a.source.acknowledged == []
        a.committer.settle(wait=True)
        assert a.source.acknowledged == [a.learner.received]


def test_a_commit_is_counted_and_its_pause_and_length_measured(tmp_path: Path) -> None:
    with run(tmp_path) as a:
        for _ in range(3):
            a.committer.finish()
        names = ("commits_total", "pause_seconds_count", "commit_seconds_count")
        values = [a.metrics.registry.get_sample_value(f"babyagent_learner_{name}") for name in names]
    assert values == [3, 3, 3]


def test_the_last_two_states_are_kept_and_the_rest_is_removed(tmp_path: Path) -> None:
    with run(tmp_path) as a:
        for _ in range(4):
            a.train(3)
            a.committer.finish()
        assert a.names() == ["commit-000003-step-9", "commit-000004-step-12"]
        a.committer.finish()
        assert a.names() == ["commit-000004-step-12", "commit-000005-step-12"]


def test_two_commits_of_one_step_are_two(tmp_path: Path) -> None:
    """Pairs may come without a step becoming due."""
    with run(tmp_path) as a:
        a.committer.finish()
        for pair in a.source.receive(5, 0):
            key = a.learner.add(pair)
            assert key is not None
            a.committer.keep(key, pair)
        a.committer.finish()
        assert a.source.acknowledged == [0, 5]
    assert committed(tmp_path).memory.fresh == 5


def test_what_ends_a_commit_is_raised_where_training_looks(tmp_path: Path) -> None:
    with run(tmp_path) as a:
        a.folder.write_text("in the way")
        a.train(1)
        a.committer.begin()
        with pytest.raises(OSError, match="File exists"):
            a.committer.settle(wait=True)
        assert a.source.acknowledged == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB, where one may be mounted."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", mount], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    yield mount
    subprocess.run(["umount", "--lazy", mount], check=True)


def filled(disk: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


def test_training_goes_on_while_the_disk_is_full_and_commits_once_there_is_room(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with run(small_disk / "run", patience_s=0.05) as a:
        a.train(3)
        a.committer.finish()
    with run(small_disk / "run", patience_s=0.05) as a:
        ballast = filled(small_disk)
        a.train(4)
        a.committer.begin()
        a.train(3)
        a.committer.settle()
        assert a.committer.in_flight
        assert a.source.acknowledged == []
        until(lambda: "make room on its disk" in caplog.text)
        until(lambda: a.names() == ["commit-000001-step-3"])  # what could not be written whole is not left lying
        ballast.unlink()
        a.committer.settle(wait=True)
        assert len(a.source.acknowledged) == 1
        a.committer.finish()
        ended = digest(a.learner)
    assert digest(committed(small_disk / "run")) == ended
    with run(tmp_path / "straight") as straight:
        straight.train(10)
    assert digest(straight.learner) == ended


def test_a_run_that_ends_on_a_full_disk_says_so_at_once(small_disk: Path) -> None:
    with run(small_disk / "run", patience_s=600.0) as a:
        a.train(1)
        a.committer.finish()
    with run(small_disk / "run", patience_s=600.0) as a:
        filled(small_disk)
        a.train(2)
        a.committer.begin()
        with pytest.raises(OSError, match="make room"):
            a.committer.finish()
        (small_disk / "ballast").unlink()
    assert committed(small_disk / "run").steps == 1


def of_two_commits(path: Path) -> tuple[str, str]:
    """A run with two commits, after 5 and after 9 steps; what the learner was at each."""
    with run(path) as a:
        digests = []
        for steps in (5, 4):
            a.train(steps)
            a.committer.finish()
            digests.append(digest(a.learner))
    return digests[0], digests[1]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["a flipped bit in the weights", "a flipped bit in the state", "no folder"])
def test_where_the_newest_state_is_damaged_the_one_before_counts_and_it_is_said(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = of_two_commits(tmp_path)
    newest = tmp_path / "checkpoints" / "commit-000002-step-9"
    if how == "no folder":
        newest.rename(tmp_path / "elsewhere")
    else:
        damage(newest / ("tensors.safetensors" if "weights" in how else "state.json"))
    with run(tmp_path) as again:
        assert digest(again.learner) == first
        assert again.source.cursor()["given"] == again.learner.received
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert f"checkpoint {newest} is damaged" in caplog.text
        assert "going on from the commit before, at step 5" in caplog.text
        again.train(4)
        again.committer.finish()
        number = 2 if how == "no folder" else 3
        assert again.names() == ["commit-000001-step-5", f"commit-{number:06d}-step-9"]
    with run(tmp_path / "straight") as straight:
        straight.train(9)
        assert digest(committed(tmp_path)) == digest(straight.learner)


def test_where_no_state_is_whole_it_is_one_line_and_nothing_is_removed(tmp_path: Path) -> None:
    of_two_commits(tmp_path)
    for folder in (tmp_path / "checkpoints").iterdir():
        damage(folder / "tensors.safetensors")
    with (
        pytest.raises(
            LearnerError, match=r"step-9 is damaged .*no other commit to go on from: restore .* from one copy"
        ) as told,
        run(tmp_path),
    ):
        pass
    assert "\n" not in str(told.value)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    with Store(tmp_path / "pairs.sqlite") as store:
        assert len(store.commits()) == 2


def test_a_damaged_pair_is_put_in_quarantine_and_said_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of_two_commits(tmp_path)
    path = tmp_path / "pairs.sqlite"
    some = make_pair(3).left[:64]
    path.write_bytes(path.read_bytes().replace(some, some[::-1]))
    with run(tmp_path) as again:
        assert "1 remembered pairs are damaged and never used again, the first:" in caplog.text
        assert again.learner.memory.quarantined == 1
        assert again.learner.steps == 9
        again.train(6)
        again.committer.finish()
        assert again.learner.memory.quarantined == 1
    assert committed(tmp_path).steps == 15


def test_a_folder_that_a_killed_process_has_not_finished_is_removed_when_a_run_is_opened(tmp_path: Path) -> None:
    of_two_commits(tmp_path)
    folder = tmp_path / "checkpoints"
    (folder / "commit-000003-step-11").mkdir()
    (folder / "commit-000003-step-11" / "state.json").write_text("half a sta")
    with run(tmp_path) as again:
        assert again.names() == ["commit-000001-step-5", "commit-000002-step-9"]


@pytest.mark.parametrize(
    ("note", "state"),
    [
        (None, {"objective": {}}),
        (None, {**tiny_learner().state_dict(), "memory": {}}),
        ({"place": "elsewhere"}, {}),
        ({"folder": "../../etc", "cursor": {}}, {}),
        ({"folder": 7, "cursor": []}, {}),
    ],
)
def test_what_another_version_committed_is_refused_in_one_line(
    note: dict[str, Any] | None, state: dict[str, Any], tmp_path: Path
) -> None:
    directory = RunDirectory(tmp_path, TINY)
    directory.checkpoints.mkdir()
    with Store(directory.store) as store:
        save_checkpoint(directory.checkpoints / "commit-000001-step-1", state)
        written = note or {"folder": "commit-000001-step-1", "cursor": {}}
        store.commit([], json.dumps(written).encode()).result()
        with pytest.raises(LearnerError, match="commit 1 was made by another version") as refused:
            restore(tiny_learner(), store, CheckpointFolder(directory.checkpoints))
    assert "\n" not in str(refused.value)


def test_a_cursor_comes_back_as_it_was(tmp_path: Path) -> None:
    cursor = {"devices": {"rig1": {"epochs": {"a" * 32: [[0, 1 << 62]]}, "ratio": 0.1, "none": None}}}
    note = msgspec.json.encode(Note("commit-000001-step-0", cursor))
    assert msgspec.json.decode(note, type=Note).cursor == cursor


@pytest.mark.parametrize("seq", range(4))
def test_a_packed_pair_comes_back_byte_for_byte(seq: int) -> None:
    pair = make_pair(seq, codec="jpeg" if seq % 2 else "lz4")
    assert unpack(pack(pair)) == pair


@given(st.binary(max_size=300) | st.lists(st.binary(max_size=40)).map(msgspec.msgpack.encode))
def test_what_is_no_packed_pair_is_malformed_and_nothing_else(item: bytes) -> None:
    with pytest.raises(MalformedMessage):
        unpack(item)


@given(at=st.integers(0, len(pack(make_pair(1))) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_packed_pair_is_malformed(at: int, bit: int) -> None:
    item = bytearray(pack(make_pair(1)))
    item[at] ^= 1 << bit
    with pytest.raises(MalformedMessage):
        unpack(bytes(item))


KILLED_AT_EVERY_OPERATION = """
import itertools, logging, os, sys
from pathlib import Path
from committing import *
from learner_state import digest

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "sqlite3.connect"}

def commit_and_die(folder, operation):
    left = itertools.count(operation, -1)
    with run(folder) as a:
        def die(event, _arguments):
            if event in OPERATIONS and next(left) == 0:
                os._exit(9)
        sys.addaudithook(die)
        a.committer.begin_run(lambda: True)
        a.train(1)
        a.committer.finish()
    os._exit(0)

def looked_at(folder):
    with run(folder) as a:
        print(a.learner.steps, digest(a.learner), a.source.cursor()["given"], flush=True)
    os._exit(0)

def waited(child, *arguments):
    pid = os.fork()
    if not pid:
        child(*arguments)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

folder = Path(sys.argv[1])
for operation in itertools.count():
    ended = waited(commit_and_die, folder, operation)
    assert waited(looked_at, folder) == 0
    if ended == 0:
        break
    assert ended == 9
print(operation)
"""


def test_a_process_killed_between_any_two_file_operations_is_at_one_of_the_two_commits(tmp_path: Path) -> None:
    """A child is ended at the first operation on files, the next one at the second, ... until one comes through."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED_AT_EVERY_OPERATION, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *looks, operations = done.stdout.split("\n")[:-1]
    assert int(operations) > 15
    with run(tmp_path / "straight") as straight:
        states = [f"0 {digest(straight.learner)} 0"]
        for step in range(1, 1 + len(looks)):
            straight.train(1)
            states.append(f"{step} {digest(straight.learner)} {straight.source.cursor()['given']}")
    at = 0
    for look in looks:
        assert look in states[at : at + 2]
        at = states.index(look)
    assert at >= 2
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
