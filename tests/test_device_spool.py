"""The rig's spool: what is appended survives kill -9 and is read back, also beside other work."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from spooled import (
    DEVICE,
    MAX_BYTES,
    NOBODY,
    ROOMY_BYTES,
    SEGMENT_BYTES,
    A,
    B,
    bytes_in,
    check,
    copied,
    fill,
    make_pair,
    open_spool,
    pull,
    row_of,
    segment_files,
    settle,
)
from waiting import WAIT_S

from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from device.sim.camera import SimCamera, SimConfig
from device.spool.folder import SpoolError
from device.spool.segment import Segment, State
from device.spool.segment_file import SegmentFile
from device.spool.spool import Spool
from stream.codec import to_parts
from stream.live.backfill_messages import Span
from stream.ranges import Ranges

ROOT = Path(__file__).parents[1]


def new_segment() -> Segment:
    return Segment(run=1, epoch=A, first=0, end=0, state=State.OPEN)


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
    pair_bytes = sum(map(len, row_of(0, A)))
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
    orphans = [tmp_path / f"00000001-{A}-000000000000.sqlite-{end}" for end in ("wal", "shm")]
    orphans[0].touch()
    orphans[1].write_bytes(bytes(100))
    open_spool(tmp_path).close()
    assert not any(orphan.exists() for orphan in orphans)


def test_pairs_in_a_log_whose_segment_was_moved_away_are_there_again_once_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, away = tmp_path / "spool", tmp_path / "away"
    with open_spool(folder, epoch=A) as spool:
        fill(spool, 3)
        shutil.copytree(folder, away)
    shutil.rmtree(folder)
    (segment,) = (path for path in segment_files(away) if path.suffix == ".sqlite")
    moved = segment.rename(tmp_path / segment.name)
    open_spool(away).close()
    assert f"holds pairs of a segment that is not there: put {segment.name} back beside it" in caplog.text
    moved.rename(segment)
    with open_spool(away) as spool:
        assert pull(spool, A, 0, 3) == ([0, 1, 2], Ranges())


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
