"""A damaged spool: every damage costs the pairs that it touches, and each of them is a named loss."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spooled import A, B, copied, fill, open_spool, pull, row_of, segment_files

from device.spool.spool import Spool
from stream.live.backfill_messages import Span
from stream.ranges import Ranges


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with 35 pairs of epoch A: as a closed spool leaves it, and as a killed one does."""
    folder = tmp_path_factory.mktemp("left")
    with open_spool(folder / "origin", epoch=A) as spool:
        fill(spool, 35)
        killed = copied(folder / "origin", folder / "killed")
    return {"closed": folder / "origin", "killed": killed}


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
