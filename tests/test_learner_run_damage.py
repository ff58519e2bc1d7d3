"""A run directory that was damaged, copied, half copied or restored goes on from a commit or is refused; it never starts over."""

from __future__ import annotations

import logging
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from committing import run
from hypothesis import example, given, settings
from hypothesis import strategies as st
from learner_state import digest
from run_damage import LOG, REST, Runs, bytes_of, make_runs, whole_folders
from tiny_learner import TINY, make_pairs

from buffer.store import Store
from buffer.store_reader import StoreError
from learner.errors import LearnerError
from learner.runs.folder import RunDirectory


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return make_runs(tmp_path_factory.mktemp("runs"))


def opened(path: Path, runs: Runs) -> str | None:
    """The digest of the learner that goes on; None: it was refused in one line. Either way whole checkpoints stay."""
    before, whole = bytes_of(path), whole_folders(path)
    try:
        with run(path) as a:
            found = digest(a.learner)
            if not a.learner.memory.quarantined:
                assert runs.states[found] == (a.learner.steps, a.source.cursor()["given"])
            assert a.learner.steps
    except (LearnerError, StoreError) as refused:
        said = str(refused)
    else:
        return found
    finally:
        assert whole <= whole_folders(path)
    assert "\n" not in said
    assert bytes_of(path) == before
    return None


@given(kind=st.sampled_from(sorted(LOG)), seed=st.integers(0, 1 << 32))
@settings(max_examples=12)
def test_whatever_happens_to_the_log_the_newest_commit_is_there(runs: Runs, kind: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copytree(runs.now, Path(folder) / "run")
        LOG[kind](path, runs, random.Random(seed))
        assert opened(path, runs) == runs.newest


@given(kinds=st.lists(st.sampled_from(sorted(LOG | REST)), min_size=1, max_size=2), seed=st.integers(0, 1 << 32))
@example(kinds=["the log of another copy", "a cut store"], seed=1)  # the log it leaves is empty: it was removed
@settings(max_examples=25)
def test_a_damaged_run_goes_on_from_one_of_its_commits_or_is_refused_untouched(
    runs: Runs, kinds: list[str], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copytree(runs.now, Path(folder) / "run")
        draw = random.Random(seed)
        for kind in kinds:
            with suppress(FileNotFoundError):  # the damage before may have taken the file
                (LOG | REST)[kind](path, runs, draw)
        opened(path, runs)


def alone(path: Path, *names: str) -> None:
    """Leave only these in the run directory, beside its settings."""
    for entry in path.iterdir():
        if entry.name not in ("config.json", *names):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def emptied(path: Path) -> None:
    alone(path, "checkpoints", "steps.jsonl")
    (path / "pairs.sqlite").touch()


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a store of 0 bytes": (
        lambda path: os.truncate(path / "pairs.sqlite", 0),
        "it is empty or missing, but its log is not",
    ),
    "a store of 0 bytes, no log": (
        emptied,
        "step-9 belongs to another pairs.sqlite than the one beside it, and there is no other commit to go on from",
    ),
    "no store": (lambda path: alone(path, "checkpoints"), "step-9 belongs to another pairs.sqlite"),
    "no checkpoints": (lambda path: alone(path, "pairs.sqlite"), "step-9 is damaged"),
    "only lines": (lambda path: alone(path, "steps.jsonl"), "has steps.jsonl of a run, but no commit to go on from"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_half_a_run_is_refused_with_the_reason_and_the_remedy(kind: str, runs: Runs, tmp_path: Path) -> None:
    path = shutil.copytree(runs.now, tmp_path / "run")
    damage, reason = REFUSED[kind]
    damage(path)
    before = bytes_of(path)
    with (
        pytest.raises((LearnerError, StoreError), match=rf"{reason}.*restore .* from .* copy, or choose another"),
        run(path),
    ):
        pass
    assert bytes_of(path) == before


def test_a_commit_that_a_killed_process_did_not_enter_in_the_store_is_continued_from(
    runs: Runs, tmp_path: Path
) -> None:
    path = shutil.copytree(runs.now, tmp_path / "run")
    with run(path) as a:
        a.train(2)
        a.store.commit = lambda keys, note: a.store.flush()  # type: ignore[method-assign]
        with pytest.raises(OSError, match="cannot be read back"):
            a.committer.finish()
        left = digest(a.learner)
    with run(path) as again:
        assert digest(again.learner) == left
        again.committer.finish()
        assert len(again.names()) == 2


def test_a_commit_that_lacks_pairs_gives_way_to_the_one_before_and_stays_with_its_lines(
    runs: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store was restored from an older copy, the checkpoints were not; the folder before the newest one is in both."""
    path = shutil.copytree(runs.now, tmp_path / "run")
    for name in ("pairs.sqlite", "pairs.sqlite-wal"):
        shutil.copy(runs.older / name, path / name)
    with caplog.at_level(logging.WARNING), run(path, make_pairs(60)) as a:
        assert a.learner.steps == 6
        assert (
            "pairs of checkpoint commit-000003-step-9 are not in pairs.sqlite: going on from the commit before"
            in caplog.text
        )
        for _ in range(3):
            a.train(1)
            a.committer.finish()
        assert a.names() == ["commit-000003-step-9", "commit-000005-step-8", "commit-000006-step-9"]


def test_a_run_that_was_killed_in_its_first_commit_begins_again(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run", TINY)
    (directory.checkpoints / "commit-000001-step-0").mkdir(parents=True)
    (directory.checkpoints / "commit-000001-step-0" / "state.json").write_text("half a sta")
    with pytest.raises(LearnerError, match=r"is damaged .* no other commit to go on from"), run(tmp_path / "run"):
        pass  # the store is written first: its file was removed
    assert not directory.store.exists()
    with Store(directory.store) as store:
        store.rewind(0)
    for _ in range(2):
        with run(tmp_path / "run") as a:
            assert a.learner.steps == 0
            a.committer.begin_run(lambda: True)
            a.committer.begin_run(lambda: True)
            assert a.names() == ["commit-000001-step-0"]
