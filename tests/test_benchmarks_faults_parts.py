"""The parts of the faults benchmark that touch files: its own reading of stores and recordings, damage, refusals, strangers."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from benchmarks.faults import reading, strangers
from benchmarks.faults.check import Entered
from benchmarks.faults.consumers import LearnerProcess
from benchmarks.faults.damage import damage, restore_backup
from benchmarks.faults.rig import make_pair
from buffer.store import Store
from stream.codec import to_parts
from stream.recording.receipts import Receipt
from stream.recording.writer import RecordingWriter
from stream.signals.signal import Signal, Telemetry

EPOCHS = "a" * 32, "b" * 32
PAIRS = [make_pair(f"rig{number}", epoch, seq, 1000 + seq) for number, epoch in enumerate(EPOCHS) for seq in range(4)]
BESIDE = Telemetry({"action": Signal([[1.0, 2.0]], [1000])}, episode="7")
PAIRS[2::3] = [replace(pair, header_part=b"", telemetry=BESIDE) for pair in PAIRS[2::3]]
ENTERED = [Entered(one.header.device, one.header.epoch, one.header.seq, one.header.crc, 0) for one in PAIRS]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Eight pairs of two rigs in two chunks; two lost ranges, of which one pair came after all."""
    path = tmp_path / "walk.mcap"
    with RecordingWriter(path) as writer:
        for pair in PAIRS[:5]:
            writer.write(pair)
        writer.write_receipt(Receipt(device="rig1", epoch=EPOCHS[1], joined=0, head=9, lost=[(3, 6), (7, 9)]))
        writer.sync()
        for pair in PAIRS[5:]:
            writer.write(pair)
    return path


def test_a_recording_is_read_as_it_was_written(recording: Path) -> None:
    entered, cursor = reading.recorded([recording])
    assert entered == ENTERED
    assert cursor["devices"]["rig0"]["epochs"][EPOCHS[0]] == {"done": [[0, 4]], "lost": []}
    assert cursor["devices"]["rig1"] == {
        "epochs": {EPOCHS[1]: {"done": [[0, 6], [7, 9]], "lost": [[4, 6], [7, 9]]}},
        "counts": {"lost": 4},
    }


def test_a_recording_that_is_cut_off_has_the_pairs_of_its_whole_chunks(recording: Path) -> None:
    data = recording.read_bytes()
    found = set()
    for size in range(0, len(data), 97):
        recording.write_bytes(data[:size])
        entered, _ = reading.recorded([recording])
        assert entered == ENTERED[: len(entered)]
        found.add(len(entered))
    assert found == {0, 5, 8}


def test_a_store_is_read_as_it_was_committed_and_a_damaged_one_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "pairs.sqlite"
    assert reading.newest_commit(path) is None
    with Store(path) as store:
        for key, pair in enumerate(PAIRS):
            store.put(key, msgspec.msgpack.encode(to_parts(pair)[1:]))
        store.commit(np.array([0, 1]), b'{"cursor": {"old": 1}}').result()
        store.commit(np.array([0, 2, 7]), b'{"cursor": {"devices": {}}}').result()
        items = reading.committed_items(path)
        assert [reading.remembered(item) for item in items] == [ENTERED[0], ENTERED[2], ENTERED[7]]
        assert reading.committed_cursor(path) == {"devices": {}}
    path.write_bytes(b"no database")
    assert (reading.newest_commit(path), reading.committed_items(path)) == (None, [])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder as a killed learner leaves it; only names and bytes matter here."""
    folder = tmp_path / "run0"
    for name in ("checkpoints/commit-1/state", "checkpoints/commit-2/state", "pairs.sqlite", "pairs.sqlite-wal"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 50)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("kind", "hit"),
    [
        ("lost-log", "pairs.sqlite-wal"),
        ("empty-store", "pairs.sqlite"),
        ("damaged-checkpoint", "checkpoints/commit-2/state"),
    ],
)
@pytest.mark.parametrize("seed", range(6))
def test_damage_to_a_run_hits_what_it_names_and_nothing_else(run: Path, kind: str, hit: str, seed: int) -> None:
    before = contents(run)
    assert damage(kind, run.parent, random.Random(seed))
    after = contents(run)
    assert {name for name in before if after.get(name) != before[name]} == {hit}


@pytest.mark.parametrize("seed", range(8))
def test_a_backup_is_restored_whole_without_its_log_or_by_half(run: Path, tmp_path: Path, seed: int) -> None:
    backup = tmp_path / "backup"
    for name in ("pairs.sqlite", "pairs.sqlite-wal", "a", "b"):
        backup.mkdir(exist_ok=True)
        (backup / name).write_text(f"old {name}")
    old, new = contents(backup), contents(run)
    restore_backup("half-backup", backup, run, random.Random(seed))
    half = contents(run)
    assert sum(half.get(name) == data for name, data in old.items()) == 2
    assert all(half[name] in (old.get(name), new.get(name)) for name in half)
    restore_backup("old-backup", backup, run, random.Random(seed))
    assert contents(run) == old
    restore_backup("backup-without-log", backup, run, random.Random(seed))
    assert contents(run) == {name: data for name, data in old.items() if name != "pairs.sqlite-wal"}


@pytest.fixture
def learner(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LearnerProcess]:
    """A learner whose run lies in a folder; it is never started."""
    monkeypatch.setenv("PATH", "")  # no file system of its own
    process = LearnerProcess("learner", tmp_path / "stage", [])
    run.rename(process.home / "run0")
    yield process
    process.close(None)


def refuse(learner: LearnerProcess, said: str) -> bool:
    learner.process.log.write_text(said)
    return learner.has_refused()


def test_a_refusal_is_one_line_that_touches_nothing_and_the_files_are_whole_again(learner: LearnerProcess) -> None:
    whole = contents(learner.home)
    learner.take_down(lambda home: damage("empty-store", home, random.Random(0)))
    assert contents(learner.home) != whole
    assert refuse(learner, "error: restore it from a copy\n")
    assert contents(learner.home) == whole
    assert learner.complaints == []
    assert not refuse(learner, "error: it is whole now, so this is a crash\n")


@pytest.mark.parametrize("said", ["Traceback (most recent call last)\n", "", "error: one\nerror: two\n"])
def test_a_refusal_in_any_other_form_is_a_complaint(learner: LearnerProcess, said: str) -> None:
    learner.take_down(lambda home: damage("empty-store", home, random.Random(0)))
    assert refuse(learner, said)
    assert "one line" in learner.complaints[0]


def test_a_refusal_that_changes_a_file_is_a_complaint(learner: LearnerProcess) -> None:
    learner.take_down(lambda home: damage("empty-store", home, random.Random(0)))
    (learner.home / "run0/checkpoints/commit-1/state").unlink()
    assert refuse(learner, "error: restore it from a copy\n")
    assert "commit-1/state" in learner.complaints[0]


def test_a_learner_that_went_on_after_damage_has_not_refused(learner: LearnerProcess) -> None:
    learner.take_down(lambda home: damage("lost-log", home, random.Random(0)))
    (learner.home / "run0/checkpoints/commit-3").mkdir()
    assert not refuse(learner, "error: anything\n")


def test_a_copied_run_goes_on_in_another_folder(learner: LearnerProcess) -> None:
    before = contents(learner.home / "run0")
    learner.take_down(learner.move)
    assert contents(learner.home / "run1") == before
    assert not (learner.home / "run0").exists()
    assert str(learner.home / "run1") in learner.process.command


def test_a_stranger_that_speaks_by_hand_is_heard_by_a_real_socket() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        router.rcvtimeo = 60_000
        kept: list[Any] = []
        strangers.invented_names([0, port], random.Random(0), kept)
        names = [msgspec.msgpack.decode(router.recv_multipart()[1])[2] for _ in range(3)]
        kept[0].close()
    assert names == ["invented-0", "invented-1", "invented-2"]
    assert strangers.frame(bytes(256), more=True)[:9] == b"\3" + (256).to_bytes(8)


def test_the_checksum_of_a_remembered_pair_is_that_of_its_images() -> None:
    pair = PAIRS[3]
    changed = [pair.header_part, pair.left, pair.right[:-1] + b"?"]
    assert reading.remembered(msgspec.msgpack.encode(changed)).crc == zlib.crc32(changed[2], zlib.crc32(pair.left))
    assert json.dumps(reading.joined([(3, 4), (0, 2), (2, 3), (6, 7)])) == "[[0, 4], [6, 7]]"
