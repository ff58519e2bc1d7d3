"""Checkpoints: whole or not there, whatever is killed; damage is found; nothing is pickled."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learner.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from learner.errors import LearnerError

ROOT = Path(__file__).parents[1]
FILES = {"state.json", "tensors.safetensors", "SHA256SUMS"}


def state(mark: int) -> dict[str, Any]:
    return {
        "weights": {"a": torch.full((2, 3), float(mark)), "b": torch.tensor([True, False])},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "lists": [1, [2.5, None], "text", True]},
        "arrays": {"keys": np.arange(4), "empty": np.empty((0, 2), np.float32), "scores": np.array([np.nan, -np.inf])},
        "numbers": {"exact": 0.1 + 0.2, "inf": float("inf"), "numpy": np.int64(7)},
        "mark": mark,
    }


def mark_of(folder: Path) -> int:
    """Which state the newest checkpoint holds; its two files must agree."""
    path = latest_checkpoint(folder)
    assert path is not None
    loaded = load_checkpoint(path)
    assert loaded["weights"]["a"][0, 0] == loaded["mark"]
    return int(loaded["mark"])


def test_a_nested_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    loaded = load_checkpoint(save_checkpoint(tmp_path / "new" / "folder", 12, state(5)))
    expected = state(5)
    for name, tensor in expected["weights"].items():
        assert torch.equal(loaded["weights"][name], tensor)
        assert loaded["weights"][name].dtype == tensor.dtype
    assert loaded["optimizer"] == expected["optimizer"]
    assert list(loaded["optimizer"]["state"]) == [0, 1]
    for name, array in expected["arrays"].items():
        assert np.array_equal(loaded["arrays"][name], array, equal_nan=array.dtype.kind == "f")
        assert loaded["arrays"][name].dtype == array.dtype
    assert loaded["numbers"] == expected["numbers"]


def test_there_is_no_checkpoint_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "none") is None
    assert latest_checkpoint(tmp_path) is None


def test_a_checkpoint_is_plain_files_without_pickle(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 12, state(1))
    assert path.name == "commit-000001-step-12"
    assert {file.name for file in path.iterdir()} == FILES
    for folder in ("learner", "buffer"):
        for source in (ROOT / folder).rglob("*.py"):
            assert not re.search(r"torch\.(save|load)\(", source.read_text()), source


def test_the_last_two_are_kept_and_the_newest_counts(tmp_path: Path) -> None:
    for mark, step in enumerate([0, 5, 5, 5, 7]):
        save_checkpoint(tmp_path, step, state(mark))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["commit-000004-step-5", "commit-000005-step-7"]
    assert mark_of(tmp_path) == 4


def test_the_order_is_that_of_the_commits_beyond_their_zeros(tmp_path: Path) -> None:
    (tmp_path / "commit-999999-step-1").mkdir()
    save_checkpoint(tmp_path, 2, state(8))
    assert mark_of(tmp_path) == 8
    assert (tmp_path / "commit-1000000-step-2").is_dir()


def test_one_that_was_removed_gives_way_to_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state(1))
    shutil.rmtree(save_checkpoint(tmp_path, 2, state(2)))
    assert mark_of(tmp_path) == 1


def test_the_draft_of_a_killed_process_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".draft").mkdir()
    (tmp_path / ".draft" / "state.json").write_text("half a sta")
    assert latest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 1, state(1))
    assert [path.name for path in tmp_path.iterdir()] == ["commit-000001-step-1"]


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("place", [0.0, 0.4, 0.9])
def test_a_flipped_bit_anywhere_is_found_and_told_in_one_line(name: str, place: float, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, state(1))
    data = bytearray((path / name).read_bytes())
    data[int(place * len(data))] ^= 4
    (path / name).write_bytes(data)
    with pytest.raises(LearnerError, match=r"damaged .* remove it to go on from the one before") as damaged:
        load_checkpoint(path)
    assert str(path) in str(damaged.value)
    assert "\n" not in str(damaged.value)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("length", [None, 0, 30])
def test_a_file_that_is_missing_or_cut_is_told_in_one_line(name: str, length: int | None, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, state(1))
    if length is None:
        (path / name).unlink()
    else:
        os.truncate(path / name, length)
    with pytest.raises(LearnerError, match="damaged") as damaged:
        load_checkpoint(path)
    assert "\n" not in str(damaged.value)


KILLED_AT_EVERY_OPERATION = """
import itertools, os, sys
from pathlib import Path
from learner.checkpoint import save_checkpoint
from test_learner_checkpoint import mark_of, state

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir"}

def save_and_die(folder, mark, operation):
    left = itertools.count(operation, -1)
    def die(event, _arguments):
        if event in OPERATIONS and next(left) == 0:
            os._exit(9)
    sys.addaudithook(die)
    save_checkpoint(folder, mark, state(mark))
    os._exit(0)

folder = Path(sys.argv[1])
save_checkpoint(folder, 0, state(0))
present, ended = 0, None
for operation in itertools.count():
    child = os.fork()
    if not child:
        save_and_die(folder, operation + 1, operation)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = mark_of(folder)
    assert found in (present, operation + 1), (operation, found)
    present = found
    if ended == 0:
        break
assert found == operation + 1
print(operation)
"""


def test_a_process_killed_between_any_two_file_operations_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """A child is ended at the first operation on files, the next one at the second, ... until one comes through."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED_AT_EVERY_OPERATION, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15
    names = [path.name for path in (tmp_path / "run").iterdir()]
    assert len(names) == 2, names
