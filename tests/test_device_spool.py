"""The spool: an appended pair is read back byte for byte or counted as lost, whatever is killed, cut, flipped or full."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spooled import (
    DEVICE,
    MAX_BYTES,
    ROOMY_BYTES,
    SEGMENT_BYTES,
    Clock,
    bytes_in,
    check,
    copied,
    fill,
    make_pair,
    open_spool,
    pull,
    row_of,
    settle,
)

from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from device.sim.camera import SimCamera, SimConfig
from device.spool.folder import SpoolError
from device.spool.rules import RETRY_S
from device.spool.segment import Segment, State
from device.spool.segment_file import SegmentFile
from device.spool.spool import Spool
from stream.codec import to_parts
from stream.live.backfill_messages import Span
from stream.ranges import Ranges

ROOT = Path(__file__).parents[1]
WAIT_S = 60.0  # generous: the machine may be busy; nothing here is judged by its speed
A, B, C = "a" * 32, "b" * 32, "d" * 32
NOBODY = "c" * 32


def new_segment() -> Segment:
    return Segment(run=1, epoch=A, first=0, end=0, state=State.OPEN)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with open_spool(tmp_path, epoch=A) as spool:
        yield spool


def test_appended_pairs_are_read_back_byte_for_byte_before_and_after_a_restart(tmp_path: Path) -> None:
    with open_spool(tmp_path, epoch=A) as spool:
        fill(spool, 35)
        assert pull(spool, A, 0, 35) == (list(range(35)), Ranges())
        assert spool.spans() == [Span(A, 0, 35, True)]
    with open_spool(tmp_path, epoch=B) as spool:
        assert spool.spans() == [Span(A, 0, 35, False), Span(B, 0, 0, True)]
        assert pull(spool, A, 0, 35) == (list(range(35)), Ranges())


def test_a_captured_pair_lies_in_the_spool_before_it_is_published(spool: Spool) -> None:
    shots = islice(SimCamera(SimConfig(size=(48, 64), places=1), start_ns=0), 5)
    for pair in capture(shots, Dedupe(DedupeConfig(audit_share=1.0)), device=DEVICE, epoch=A, spool=spool):
        reading = spool.read(A, pair.header.seq, pair.header.seq + 1, 1)
        assert [tuple(to_parts(pair)[1:])] == list(reading.rows)
    assert spool.stats().pairs == 5


def test_an_answer_keeps_within_its_credit_but_gives_one_pair_at_least(spool: Spool) -> None:
    fill(spool, 8)
    _, left, right = row_of(0, A)
    pair_bytes = len(left) + len(right)
    for credit_bytes, pairs in ((1, 1), (2 * pair_bytes - 1, 1), (2 * pair_bytes, 2), (1 << 30, 5)):
        reading = spool.read(A, 3, 8, credit_bytes)
        check(reading, A, 3, 8)
        assert len(reading.rows) == pairs


def test_pairs_beyond_the_end_are_not_there_yet_while_the_epoch_is_open_and_lost_when_it_is_closed(
    tmp_path: Path,
) -> None:
    with open_spool(tmp_path, epoch=A) as spool:
        fill(spool, 3)
        assert pull(spool, A, 0, 9) == ([0, 1, 2], Ranges())
        assert pull(spool, A, 3, 9) == ([], Ranges())
    with open_spool(tmp_path) as spool:
        assert pull(spool, A, 0, 9) == ([0, 1, 2], Ranges([(3, 9)]))


def test_all_pairs_of_an_unknown_epoch_are_lost(spool: Spool) -> None:
    reading = spool.read(NOBODY, 5, 1 << 40, 1)
    assert (reading.next, list(reading.lost), list(reading.rows)) == (1 << 40, [(5, 1 << 40)], [])


def test_the_epochs_of_several_runs_lie_beside_each_other_oldest_first(tmp_path: Path) -> None:
    for number, epoch in enumerate((B, A)):
        with open_spool(tmp_path, epoch=epoch) as spool:
            fill(spool, 12 + number)
    with open_spool(tmp_path) as spool:
        assert spool.spans()[:2] == [Span(B, 0, 12, False), Span(A, 0, 13, False)]
        assert pull(spool, B, 0, 12)[0] == list(range(12))
        assert pull(spool, A, 0, 13)[0] == list(range(13))


def test_a_pair_of_another_device_or_epoch_or_an_earlier_number_is_refused(spool: Spool) -> None:
    fill(spool, 2)
    for wrong in (make_pair(2, B), make_pair(2, A, device="other"), make_pair(1, A)):
        with pytest.raises(ValueError, match="is not pair 2 or later"):
            spool.append(wrong)


def test_impossible_limits_and_used_epochs_are_refused(tmp_path: Path) -> None:
    with open_spool(tmp_path, epoch=A) as spool:
        fill(spool, 1)
    with pytest.raises(ValueError, match="used before"):
        open_spool(tmp_path, epoch=A)
    for wrong in ({"segment_bytes": MAX_BYTES}, {"free_floor_bytes": -1}, {"device": "two words"}, {"max_bytes": 0}):
        with pytest.raises(ValueError, match="no spool"):
            open_spool(tmp_path, **wrong)


# --- killed ---------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from functools import partial
from pathlib import Path
from spooled import ROOMY_BYTES, make_pair, open_spool
spool = open_spool(Path(sys.argv[1]), epoch=sys.argv[2], max_bytes=ROOMY_BYTES)
for seq in range(100):
    assert spool.append(make_pair(seq, spool.epoch))
    print(seq, flush=True)
input()
"""


def test_after_kill_9_every_pair_whose_append_returned_is_there(tmp_path: Path) -> None:
    """The process is killed at several places of a segment; the segments of earlier runs stay in the folder."""
    kept: dict[str, int] = {}
    for number, kill_at in enumerate((0, 6, 9, 33, 57)):
        epoch = f"{number:032x}"
        command = [sys.executable, "-c", CHILD, str(tmp_path), epoch]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if int(line) == kill_at:
                    child.send_signal(signal.SIGKILL)
                    break
            printed = [kill_at, *(int(line) for line in child.stdout if line.endswith(b"\n"))]
        assert child.returncode == -signal.SIGKILL
        kept[epoch] = printed[-1] + 1
        with open_spool(tmp_path, max_bytes=ROOMY_BYTES) as spool:
            for earlier, count in kept.items():
                span = next(span for span in spool.spans() if span.epoch == earlier)
                assert span.tail == 0
                assert (
                    count <= span.head <= count + 1
                )  # the last one may have been appended before its number was printed
                assert pull(spool, earlier, 0, span.head) == (list(range(span.head)), Ranges())
            assert spool.stats().lost == {"evicted": 0, "rot": 0}


def test_a_segment_that_held_no_pair_yet_leaves_nothing(tmp_path: Path) -> None:
    SegmentFile.create(tmp_path, new_segment()).close()
    with open_spool(tmp_path, epoch=B) as spool:
        assert spool.spans() == [Span(B, 0, 0, True)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["consumers.json", "device.lock"]


def test_pairs_are_synced_soon_though_no_other_follows(tmp_path: Path) -> None:
    synced = threading.Event()
    with open_spool(tmp_path, on_sync=lambda seconds: synced.set()) as spool:
        fill(spool, 1)
        assert synced.wait(WAIT_S)


# --- damaged --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with 35 pairs of epoch A: as a closed spool leaves it, and as a killed one does."""
    folder = tmp_path_factory.mktemp("left")
    with open_spool(folder / "origin", epoch=A) as spool:
        fill(spool, 35)
        killed = copied(folder / "origin", folder / "killed")
    return {"closed": folder / "origin", "killed": killed}


def segment_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if ".sqlite" in path.name)


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size))


def flip(path: Path, share: float) -> None:
    at = min(int(share * path.stat().st_size), path.stat().st_size - 1)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << at % 8]))


@pytest.mark.parametrize("state", ["closed", "killed"])
@pytest.mark.parametrize("damage", [cut, flip])
@settings(max_examples=25)
@given(which=st.integers(0, 63), share=st.floats(0, 1, exclude_max=True))
def test_a_damaged_file_costs_only_its_own_pairs_and_all_given_pairs_are_right(
    left_behind: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    state: str,
    damage: Callable[[Path, float], None],
    which: int,
    share: float,
) -> None:
    folder = copied(left_behind[state], tmp_path_factory.mktemp("damaged") / "spool")
    files = [path for path in segment_files(folder) if path.stat().st_size]
    path = files[which % len(files)]
    path.chmod(0o644)
    damage(path, share)
    with open_spool(folder, epoch=B) as spool:
        fill(spool, 3)
        assert spool.spans() == [Span(A, 0, 35, False), Span(B, 0, 3, True)]  # the missing pairs are known
        got, lost = pull(spool, A, 0, 40)
        assert len(got) + lost.count == 40
        assert lost.overlap(35, 40) == 5
        assert len(got) >= 35 - 13  # the pairs of one segment at most
        counted = spool.stats().lost["rot"]
        assert counted == lost.overlap(0, 35)
        assert pull(spool, A, 0, 40) == (got, lost)
        assert spool.stats().lost["rot"] == counted  # once
        assert pull(spool, B, 0, 3) == ([0, 1, 2], Ranges())


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_number_of_pairs_is_known_when_the_only_segment_of_a_run_is_cut_off(tmp_path: Path, share: float) -> None:
    with open_spool(tmp_path / "origin", epoch=A) as spool:
        fill(spool, 7)
        folder = copied(tmp_path / "origin", tmp_path / "killed")
    (log,) = folder.glob("*-wal")
    cut(log, share)
    for _ in range(2):  # and is known after the next start too
        with open_spool(folder) as spool:
            assert spool.spans()[0] == Span(A, 0, 7, False)
            got, lost = pull(spool, A, 0, 7)
            assert got == list(range(len(got)))
            assert (len(got) > 0) == (share > 0)
            assert spool.stats().lost["rot"] == lost.count == 7 - len(got) > 0


def test_one_flipped_bit_in_an_image_costs_one_pair(left_behind: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(left_behind["closed"], tmp_path / "spool")
    path = segment_files(folder)[1]
    path.chmod(0o644)
    (flipped,) = (seq for seq in range(10, 20) if path.read_bytes().count(row_of(seq, A)[2][500:600]) and seq % 10 == 4)
    flip(path, (path.read_bytes().index(row_of(flipped, A)[2][500:600]) + 50.5) / path.stat().st_size)
    with open_spool(folder) as spool:
        got, lost = pull(spool, A, 0, 35)
        assert list(lost) == [(flipped, flipped + 1)]
        assert len(got) == 34
        assert spool.stats().lost == {"evicted": 0, "rot": 1}


def test_of_a_file_that_was_cut_off_the_pairs_before_the_cut_are_given(
    left_behind: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(left_behind["closed"], tmp_path / "spool")
    path = segment_files(folder)[1]
    path.chmod(0o644)
    cut(path, 0.8)
    with open_spool(folder) as spool:
        got, lost = pull(spool, A, 0, 35)
        assert 0 < lost.count == 35 - len(got) < 13
        assert lost.count == lost.overlap(13, 26)


def test_a_valid_pair_in_the_place_of_another_is_not_given(left_behind: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(left_behind["closed"], tmp_path / "spool")
    path = segment_files(folder)[0]
    path.chmod(0o644)
    with closing(sqlite3.connect(path)) as connection, connection:
        for was, becomes in ((3, -3), (5, 3), (-3, 5)):
            connection.execute("UPDATE pairs SET seq = ? WHERE seq = ?", (becomes, was))
    with open_spool(folder) as spool:
        assert list(pull(spool, A, 0, 35)[1]) == [(3, 4), (5, 6)]


@pytest.mark.parametrize("damage", [cut, flip])
@settings(max_examples=20)
@given(which=st.integers(0, 63), share=st.floats(0, 1, exclude_max=True))
def test_damage_under_a_running_spool_stops_neither_reading_nor_appending(
    tmp_path_factory: pytest.TempPathFactory, damage: Callable[[Path, float], None], which: int, share: float
) -> None:
    folder = tmp_path_factory.mktemp("running")
    with open_spool(folder, epoch=A) as spool:
        fill(spool, 25)
        files = [path for path in segment_files(folder) if path.stat().st_size]
        path = files[which % len(files)]
        path.chmod(0o644)
        damage(path, share)
        before, lost = pull(spool, A, 0, 25)
        assert len(before) + lost.count == 25
        fill(spool, 15)
        after, lost = pull(spool, A, 25, 40)
        assert len(after) + lost.count == 15
        assert spool.stats().unspooled == 0
    with open_spool(folder) as spool:
        got, lost = pull(spool, A, 0, 40)
        assert len(got) + lost.count == 40


def test_files_deleted_under_a_running_spool_are_lost_pairs_and_no_error(spool: Spool, tmp_path: Path) -> None:
    fill(spool, 35)
    for path in segment_files(tmp_path):
        path.unlink()
    got, lost = pull(spool, A, 0, 35)
    assert len(got) + lost.count == 35
    fill(spool, 35)
    got, lost = pull(spool, A, 35, 70)
    assert len(got) + lost.count == 35
    assert lost.overlap(60, 70) == 0


# --- bounded --------------------------------------------------------------------------------------------------------


def test_its_files_never_exceed_the_limit_and_the_oldest_pairs_are_evicted_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), open_spool(tmp_path, epoch=A) as spool:
        for seq in range(600):
            assert spool.append(make_pair(seq, A))
            assert bytes_in(tmp_path) <= MAX_BYTES
            settle(spool)
        (span,) = spool.spans()
        assert span.head == 600
        assert 0 < span.tail < 600
        assert spool.stats().lost == {"evicted": span.tail, "rot": 0}
        assert spool.stats().bytes > 0.8 * MAX_BYTES  # the limit is used, not only kept
        assert pull(spool, A, 0, 600) == (list(range(span.tail, 600)), Ranges([(0, span.tail)]))
        assert spool.stats().lost["evicted"] == span.tail  # not counted again by reading
    logged = [record.getMessage() for record in caplog.records if "LOST" in record.getMessage()]
    assert logged[0].startswith(f"LOST [0, {logged[0].split(' ')[2].rstrip(')')}) epoch={A} cause=evicted")


def test_an_evicted_pair_is_lost_only_to_learners_that_had_not_acknowledged_it(spool: Spool) -> None:
    spool.register("one")
    fill(spool, 60)
    spool.acknowledge("one", {A: 47})
    fill(spool, 600)
    (span,) = spool.spans()
    assert span.tail > 60
    assert spool.stats().lost == {"evicted": span.tail - 47, "rot": 0}


def test_an_epoch_that_was_evicted_whole_is_named_until_every_learner_knows_it(tmp_path: Path) -> None:
    with open_spool(tmp_path, epoch=A) as spool:
        spool.register("one")
        fill(spool, 30)
    with open_spool(tmp_path, epoch=B) as spool:
        fill(spool, 400)
        assert spool.spans()[0] == Span(A, 30, 30, False)
        assert pull(spool, A, 0, 30) == ([], Ranges([(0, 30)]))
        tail = spool.spans()[1].tail
    with open_spool(tmp_path) as spool:  # it is known after a restart too
        assert spool.spans()[:2] == [Span(A, 30, 30, False), Span(B, tail, 400, False)]
        spool.register("two")
        spool.acknowledge("one", {A: 30})
        assert spool.spans()[0].epoch == A
        spool.acknowledge("two", {A: 30})
        assert [span.epoch for span in spool.spans()] == [B, spool.epoch]


def test_an_epoch_that_was_acknowledged_whole_is_named_with_the_freed_ones_for_good(tmp_path: Path) -> None:
    """A consumer may come back with an older cursor: restored, copied, or away for too long."""
    with open_spool(tmp_path, epoch=A) as spool:
        spool.register("one")
        fill(spool, 30)
        spool.acknowledge("one", {A: 30})
    for _ in range(2):
        with open_spool(tmp_path) as spool:
            assert [span.epoch for span in spool.spans()] == [spool.epoch]
            assert spool.spans(freed=True)[0] == Span(A, 30, 30, False)


def test_of_epochs_that_were_evicted_whole_only_the_newest_are_named(tmp_path: Path) -> None:
    epochs = [f"{number:032x}" for number in range(4)]
    for epoch in epochs:
        with open_spool(tmp_path, epoch=epoch) as spool:
            fill(spool, 5)
    with open_spool(tmp_path, epoch=A, max_emptied_epochs=2) as spool:
        fill(spool, 400)
        assert [span.epoch for span in spool.spans()] == [*epochs[2:], A]


def test_acknowledged_segments_are_deleted_when_the_spool_opens(tmp_path: Path) -> None:
    with open_spool(tmp_path / "origin", epoch=A) as spool:
        spool.register("one")
        fill(spool, 30)
        spool.acknowledge("one", {A: 20})
        settle(spool)
        folder = copied(tmp_path / "origin", tmp_path / "killed")
        spool.acknowledge("one", {A: 30})
        shutil.copy(tmp_path / "origin" / "consumers.json", folder)  # as if killed before the segments were deleted
    with open_spool(folder, epoch=B) as spool:
        assert spool.spans() == [Span(B, 0, 0, True)]


def test_the_floor_of_free_bytes_is_kept_and_the_newest_segment_stays(tmp_path: Path) -> None:
    clock, free_bytes = Clock(), 1 << 30
    with open_spool(
        tmp_path, epoch=A, free_floor_bytes=1 << 20, free_bytes=lambda folder: free_bytes, clock=clock
    ) as spool:
        fill(spool, 50)
        free_bytes = 1 << 19  # another program fills the disk, however much is deleted here
        refused = [spool.append(make_pair(seq, A)) for seq in range(50, 55)]
        assert refused == [False] * 5
        (span,) = spool.spans()
        assert span.tail > 30
        assert span.head == 55
        assert spool.stats().unspooled == 5
        got, lost = pull(spool, A, span.tail, 55)
        assert got == list(range(span.tail, 50))
        assert list(lost) == [(50, 55)]
        free_bytes, clock.now_s = 1 << 30, clock.now_s + RETRY_S
        fill(spool, 3)
        assert pull(spool, A, 50, 58) == ([55, 56, 57], Ranges([(50, 55)]))
        assert spool.stats().lost["rot"] == 0  # those that were refused are counted as such, not as rot
        assert spool.stats().unspooled == 5


def test_a_pair_larger_than_a_segment_is_sent_live_only_and_evicts_nothing(spool: Spool) -> None:
    fill(spool, 20)
    assert not spool.append(make_pair(20, A, side=512))
    assert pull(spool, A, 0, 21) == (list(range(20)), Ranges([(20, 21)]))
    assert spool.stats().unspooled == 1


def failing(times: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next appends to segments fail as SQLite does."""
    real, left = SegmentFile.append, times

    def append(file: SegmentFile, seq: int, row: tuple[bytes, bytes, bytes]) -> None:
        nonlocal left
        if left > 0:
            left -= 1
            error = sqlite3.OperationalError("as injected")
            error.sqlite_errorcode = code
            raise error
        real(file, seq, row)

    monkeypatch.setattr(SegmentFile, "append", append)


def test_a_full_disk_costs_the_oldest_segment_and_the_pair_goes_in(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(spool, 30)
    failing(1, sqlite3.SQLITE_FULL, monkeypatch)
    assert spool.append(make_pair(30, A))
    (span,) = spool.spans()
    assert 0 < span.tail <= 15
    assert spool.stats().lost["evicted"] == span.tail
    assert pull(spool, A, span.tail, 31) == (list(range(span.tail, 31)), Ranges())


def test_a_disk_that_others_have_filled_does_not_empty_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with open_spool(tmp_path, epoch=A, clock=clock) as spool:
        fill(spool, 60)
        failing(20, sqlite3.SQLITE_FULL, monkeypatch)
        for seq in range(60, 70):
            assert not spool.append(make_pair(seq, A))
            clock.now_s += RETRY_S
        (span,) = spool.spans()
        assert 0 < span.tail <= 15  # one segment
        assert spool.stats().unspooled == 10
        fill(spool, 2)
        assert pull(spool, A, span.tail, 72)[0] == [*range(span.tail, 60), 70, 71]


def test_an_input_or_output_error_costs_no_pair_where_a_new_file_can_be_written(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(spool, 5)
    failing(1, sqlite3.SQLITE_IOERR, monkeypatch)
    fill(spool, 5)
    assert pull(spool, A, 0, 10) == (list(range(10)), Ranges())
    assert spool.spans() == [Span(A, 0, 10, True)]


def test_a_spool_starts_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        spool = open_spool(tmp_path, epoch=A, clock=clock)
        failing(2, sqlite3.SQLITE_FULL, patch)
        assert not spool.append(make_pair(0, A))
    clock.now_s += RETRY_S
    assert spool.append(make_pair(1, A))
    assert pull(spool, A, 0, 2) == ([1], Ranges([(0, 1)]))
    spool.close()
    open_spool(tmp_path).close()


LIMITED = """
import resource, sys
from pathlib import Path
from device.spool.rules import RETRY_S
from spooled import fill, make_pair, open_spool, pull
now_s = 1000.0
spool = open_spool(Path(sys.argv[1]), epoch="a" * 32, clock=lambda: now_s)
fill(spool, 5)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
assert spool.append(make_pair(5, spool.epoch))  # the open file may not grow, a new one may
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
assert not spool.append(make_pair(6, spool.epoch))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
now_s += RETRY_S
assert spool.append(make_pair(7, spool.epoch))
given, lost = pull(spool, spool.epoch, 0, 8)
assert given == [0, 1, 2, 3, 4, 5, 7], given
assert list(lost) == [(6, 7)], lost
assert spool.stats().unspooled == 1 and spool.stats().lost == {"evicted": 0, "rot": 0}
spool.close()
"""


def test_a_real_refusal_of_the_system_is_counted_and_ends_when_there_is_room_again(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"pairs are live only: .* pairs=1$", done.stderr, re.MULTILINE)


# --- acknowledged ---------------------------------------------------------------------------------------------------


def test_pairs_are_kept_until_every_learner_has_acknowledged_them(spool: Spool, tmp_path: Path) -> None:
    for name in ("one", "two"):
        spool.register(name)
    fill(spool, 45)
    spool.acknowledge("one", {A: 45})
    assert spool.spans()[0].tail == 0
    assert spool.stats().backlog == 45
    assert spool.awaited(60.0) == {"two": 45}
    spool.acknowledge("two", {A: 31})
    (span,) = spool.spans()
    assert 20 <= span.tail <= 31
    assert spool.stats().backlog == 14
    assert spool.stats().pairs == 45 - span.tail
    assert pull(spool, A, span.tail, 45)[0] == list(range(span.tail, 45))
    spool.acknowledge("two", {A: 12})  # late; numbers never go back
    assert spool.awaited(60.0) == {"two": 14}
    spool.acknowledge("two", {A: 1 << 40, NOBODY: 5})  # epochs and numbers that are not in the spool
    assert spool.awaited(60.0) == {}
    fill(spool, 2)
    assert spool.awaited(60.0) == {"one": 2, "two": 2}
    assert spool.stats().lost == {"evicted": 0, "rot": 0}


def test_acknowledgements_are_remembered_over_a_restart_and_acknowledged_pairs_are_deleted(tmp_path: Path) -> None:
    with open_spool(tmp_path, epoch=A) as spool:
        spool.register("one")
        fill(spool, 25)
        spool.acknowledge("one", {A: 25})
    assert segment_files(tmp_path) == []
    with open_spool(tmp_path, epoch=B) as spool:
        assert spool.stats().consumers == 1
        assert spool.spans() == [Span(B, 0, 0, True)]
        fill(spool, 25)
        spool.acknowledge("one", {B: 24})
        settle(spool)
        killed = copied(tmp_path, tmp_path.with_name("killed"))
    with open_spool(killed) as spool:
        assert spool.awaited(1e9) == {"one": 1}


def test_after_damage_the_list_of_consumers_begins_empty_and_no_pair_is_deleted(tmp_path: Path) -> None:
    with open_spool(tmp_path, epoch=A) as spool:
        spool.register("one")
        fill(spool, 25)
        spool.acknowledge("one", {A: 3})
    text = (tmp_path / "consumers.json").read_bytes()
    for damaged in (b"", text[:-5], text.replace(b":3}", b":9}"), b"[" * 100_000, text.replace(b"one", b"o/e")):
        assert damaged != text
        (tmp_path / "consumers.json").write_bytes(damaged)
        with open_spool(tmp_path) as spool:
            assert spool.stats().consumers == 0
            assert pull(spool, A, 0, 25)[0] == list(range(25))


def test_a_list_that_begins_empty_frees_nothing_before_other_learners_had_time_to_report(tmp_path: Path) -> None:
    clock = Clock()
    opened = partial(open_spool, tmp_path, clock=clock, grace_s=60.0)

    def acknowledged(spool: Spool, epoch: str) -> list[int]:
        """The pairs that are still given, of 40 that one learner has acknowledged."""
        spool.register("one")
        spool.acknowledge("one", {epoch: 39})
        spool.acknowledge("one", {epoch: 40})
        return pull(spool, epoch, 0, 40)[0]

    with opened(epoch=A) as spool:
        fill(spool, 40)
        assert acknowledged(spool, A) == list(range(40))
    with opened(epoch=B) as spool:  # a restart begins the grace again
        clock.now_s += 59
        assert acknowledged(spool, A) == list(range(40))
        spool.register("two")
        clock.now_s += 2
        spool.acknowledge("two", {A: 25})
        assert pull(spool, A, 25, 40)[0] == list(range(25, 40))
        spool.acknowledge("two", {A: 40})
        assert [span.epoch for span in spool.spans()] == [B]
    with opened(epoch=C) as spool:  # from now on the list is complete
        fill(spool, 40)
        spool.acknowledge("one", {C: 40})
        spool.acknowledge("two", {C: 40})
        assert spool.spans()[-1].tail > 0


def test_no_pairs_are_kept_for_a_learner_that_was_silent_for_too_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, wall = Clock(), Clock()
    with open_spool(tmp_path, epoch=A, clock=clock, wall=wall, forget_after_s=100.0) as spool:
        spool.register("one")
        spool.register("two")
        fill(spool, 25)
        spool.acknowledge("one", {A: 20})
        wall.now_s += 1e9  # the time of day does not matter
        clock.now_s += 60
        spool.register("one")
        spool.acknowledge("one", {A: 21})
        assert (spool.stats().consumers, spool.stats().backlog) == (2, 25)
        clock.now_s += 60
        spool.acknowledge("one", {A: 25})
        assert (spool.stats().consumers, spool.stats().backlog) == (1, 0)
        assert "consumer two is forgotten" in caplog.text


@pytest.mark.parametrize("jump_s", [-30 * 86400, 30 * 86400])
def test_absence_is_the_time_that_rigs_were_up_whatever_their_clocks_say(tmp_path: Path, jump_s: float) -> None:
    clock, wall = Clock(), Clock()
    opened = partial(open_spool, tmp_path, clock=clock, wall=wall, forget_after_s=100.0)
    with opened() as spool:
        spool.register("one")
    for up_s in (60, 39):
        wall.now_s += jump_s
        clock.now_s = 0.0  # the monotonic clock begins anew with the machine
        with opened() as spool:
            clock.now_s += up_s
            spool.register("two")
            assert spool.awaited(1e9).keys() <= {"one", "two"}
            assert spool.stats().consumers == 2
    with opened() as spool:
        clock.now_s += 2
        spool.acknowledge("two", {})
    with opened() as spool:
        assert spool.stats().consumers == 1


def test_no_pairs_are_kept_for_forbidden_names_and_a_65th_learner(spool: Spool) -> None:
    for name in ("", "../x", "a b", "x" * 65):
        spool.register(name)
    assert spool.stats().consumers == 0
    for number in range(70):
        spool.register(f"learner-{number}")
    spool.acknowledge("learner-69", {A: 5})
    assert spool.stats().consumers == 64


def test_only_learners_heard_from_lately_are_waited_for(tmp_path: Path) -> None:
    clock = Clock()
    with open_spool(tmp_path, epoch=A, clock=clock) as spool:
        spool.register("one")
        fill(spool, 3)
        clock.now_s += 30
        spool.register("two")
        assert spool.awaited(20.0) == {"two": 3}
        assert spool.awaited(31.0) == {"one": 3, "two": 3}
        assert not spool.read_within(1.0)
        spool.read(A, 0, 1, 1)
        assert spool.read_within(1.0)


# --- shared ---------------------------------------------------------------------------------------------------------


def test_reading_and_acknowledging_beside_appending_sees_every_pair_once(tmp_path: Path) -> None:
    """A second thread does it, as the server's does, while segments fill, are sealed and are deleted."""
    total, seen = 600, list[int]()
    failures: list[BaseException] = []
    with open_spool(tmp_path, epoch=A, max_bytes=ROOMY_BYTES) as spool:
        spool.register("one")

        def learn() -> None:
            try:
                while (at := len(seen)) < total:
                    got, lost = pull(spool, A, at, total, credit_bytes=30_000)
                    assert not lost
                    seen.extend(got)
                    spool.acknowledge("one", {A: at})
                    spool.spans()
                    spool.stats()
            except BaseException as error:
                failures.append(error)

        learner = threading.Thread(target=learn)
        learner.start()
        for seq in range(total):
            while seq - len(seen) > 60 and learner.is_alive():
                learner.join(0.001)
            assert spool.append(make_pair(seq, A))
        learner.join(WAIT_S)
        assert not failures
        assert seen == list(range(total))
        assert spool.stats().lost == {"evicted": 0, "rot": 0}


def test_random_work_agrees_with_a_simple_model(tmp_path: Path) -> None:
    """Appends, acknowledgements, restarts and copies of a killed folder in random order, compared with a simple model."""
    rng = np.random.default_rng(7)
    folder, heads, acked = tmp_path / "0", dict[str, int](), dict[str, int]()
    spool = open_spool(folder, max_bytes=ROOMY_BYTES)
    spool.register("one")
    for step in range(100):
        match int(rng.integers(5)):
            case 0 | 1:
                fill(spool, int(rng.integers(1, 25)))
                heads[spool.epoch] = spool.spans()[-1].head
            case 2 if heads:
                epoch = str(rng.choice(list(heads)))
                upto = int(rng.integers(heads[epoch] + 1))
                spool.acknowledge("one", {epoch: upto})
                acked[epoch] = max(upto, acked.get(epoch, 0))
            case 3:
                spool.close()
                spool = open_spool(folder, max_bytes=ROOMY_BYTES)
            case 4:
                settle(spool)
                killed = copied(folder, tmp_path / str(step + 1))
                spool.close()
                folder, spool = killed, open_spool(killed, max_bytes=ROOMY_BYTES)
        spans = {span.epoch: span for span in spool.spans()}
        for epoch, head in heads.items():
            tail = spans[epoch].tail if epoch in spans else head
            assert tail <= acked.get(epoch, 0)
            assert pull(spool, epoch, 0, head) == (list(range(tail, head)), Ranges([(0, tail)]))
        assert spool.stats().backlog == sum(head - acked.get(epoch, 0) for epoch, head in heads.items())
        assert spool.stats().lost == {"evicted": 0, "rot": 0}
    spool.close()


def test_a_second_process_is_refused_in_one_line_until_the_first_is_done(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        fill(spool, 3)
        with pytest.raises(SpoolError, match=r"^another process has the spool .* --spool of its own$"):
            open_spool(tmp_path)
    open_spool(tmp_path).close()


def test_the_folder_of_another_device_is_refused_in_one_line(tmp_path: Path) -> None:
    open_spool(tmp_path).close()
    with pytest.raises(
        SpoolError, match=r"^the spool .* holds pairs of rig: say --name rig, or choose another --spool$"
    ):
        open_spool(tmp_path, device="other")
    lock = tmp_path / "device.lock"
    text = lock.read_bytes()
    for damaged in (b"", b"rig", text.replace(b"rig", b"sig"), b"\xff" * 500):
        lock.write_bytes(damaged)
        open_spool(tmp_path).close()  # its owner is unknown, so it may be used
        assert lock.read_bytes() == text


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/self/spool")):
        with pytest.raises(
            SpoolError, match=r"^cannot keep pairs in .*; choose a folder with --spool, none: live only$"
        ):
            open_spool(folder)


def test_files_that_are_not_its_own_are_left_alone(tmp_path: Path) -> None:
    strays = {"notes.txt": b"mine", "pairs.sqlite": b"also", f"00000001-{A}-000000000009-000000000003.sqlite": b"odd"}
    for name, content in strays.items():
        (tmp_path / name).write_bytes(content)
    with open_spool(tmp_path) as spool:
        fill(spool, 25)
        assert len(spool.spans()) == 1
    for name, content in strays.items():
        assert (tmp_path / name).read_bytes() == content


def test_the_remains_of_an_interrupted_deletion_are_deleted(tmp_path: Path) -> None:
    orphan = tmp_path / f"00000001-{A}-000000000000.sqlite-wal"
    orphan.write_bytes(b"a log without its database")
    open_spool(tmp_path).close()
    assert not orphan.exists()


def sealed_files(folder: Path) -> list[Path]:
    return [path for path in segment_files(folder) if re.search(r"-\d{12}-\d{12}\.sqlite$", path.name)]


def test_full_segments_become_plain_databases_that_nobody_writes(tmp_path: Path) -> None:
    with open_spool(tmp_path, epoch=A) as spool:
        fill(spool, 45)
        assert sealed_files(tmp_path)
    assert sealed_files(tmp_path) == segment_files(tmp_path)
    for path in segment_files(tmp_path):
        assert path.stat().st_mode & 0o222 == 0
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_segment_that_is_deleted_while_a_full_disk_refuses_its_sealing_is_closed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = threading.Event()
    with open_spool(tmp_path, epoch=A) as spool:

        def seal(_file: SegmentFile, end: int) -> None:
            spool.acknowledge("one", {A: end})
            refused.set()
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(SegmentFile, "seal", seal)
            patch.setattr("device.spool.threads.SEAL_RETRY_S", 1e4)
            for seq in range(30):  # two full segments, of which the first is to be sealed
                assert spool.append(make_pair(seq, A))
            assert refused.wait(WAIT_S)
            assert spool.wait_sealed(WAIT_S), "the files of the deleted segment stay open"


def test_the_newest_full_segment_is_sealed_only_when_the_next_one_is_full(tmp_path: Path) -> None:
    """A learner that keeps up has acknowledged it by then, so that nothing is written twice."""
    with open_spool(tmp_path, epoch=A) as spool:
        fill(spool, 45)
        assert len(sealed_files(tmp_path)) == 2
        spool.register("one")
        for upto in range(50, 400, 5):
            fill(spool, 5)
            spool.acknowledge("one", {A: upto - 5})
            assert len(sealed_files(tmp_path)) in (0, 2)


def test_a_deleted_segment_gives_its_room_back_though_it_is_still_open(tmp_path: Path) -> None:
    file = SegmentFile.create(tmp_path, new_segment())
    file.append(0, row_of(0, A))
    with file.log_path.open("rb") as log:
        file.delete()
        assert os.fstat(log.fileno()).st_size == 0
    file.close()
    assert list(tmp_path.iterdir()) == []


def test_closing_ends_its_threads_and_is_idempotent(tmp_path: Path) -> None:
    before = threading.active_count()
    spool = open_spool(tmp_path)
    fill(spool, 3)
    assert spool.stats().bytes > 0
    spool.close()
    spool.close()
    assert threading.active_count() == before
    assert bytes_in(tmp_path) < SEGMENT_BYTES
