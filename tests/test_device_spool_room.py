"""The spool's room: its limits hold, the oldest pairs go first, and a full disk costs as little as it can."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from spooled import MAX_BYTES, A, B, Clock, bytes_in, copied, fill, make_pair, open_spool, pull, settle

from device.spool.rules import RETRY_S
from device.spool.segment_file import SegmentFile
from device.spool.spool import Spool
from stream.live.backfill_messages import Span
from stream.ranges import Ranges

ROOT = Path(__file__).parents[1]


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
