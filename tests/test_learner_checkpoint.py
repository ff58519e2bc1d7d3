"""Checkpoints: what was written comes back bit for bit, or damage is told; nothing is pickled."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learner.errors import LearnerError
from learner.runs.checkpoint import CheckpointFolder, load_checkpoint, save_checkpoint

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


def saved(folder: Path) -> Path:
    path = folder / "commit-000001-step-12"
    save_checkpoint(path, state(5))
    return path


def test_a_nested_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    loaded = load_checkpoint(saved(tmp_path))
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


def test_a_checkpoint_is_plain_files_without_pickle(tmp_path: Path) -> None:
    assert {file.name for file in saved(tmp_path).iterdir()} == FILES
    for folder in ("learner", "buffer"):
        for source in (ROOT / folder).rglob("*.py"):
            if source.parent.name != "pretrained":  # which reads the files of others, as weights alone
                assert not re.search(r"torch\.(save|load)\(", source.read_text()), source


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("place", [0.0, 0.4, 0.9])
def test_a_flipped_bit_anywhere_is_found_and_told_in_one_line(name: str, place: float, tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = bytearray((path / name).read_bytes())
    data[int(place * len(data))] ^= 4
    (path / name).write_bytes(data)
    with pytest.raises(LearnerError, match="damaged") as damaged:
        load_checkpoint(path)
    assert str(path) in str(damaged.value)
    assert "\n" not in str(damaged.value)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("length", [None, 0, 30])
def test_a_file_that_is_missing_or_cut_is_told_in_one_line(name: str, length: int | None, tmp_path: Path) -> None:
    path = saved(tmp_path)
    if length is None:
        (path / name).unlink()
    else:
        os.truncate(path / name, length)
    with pytest.raises(LearnerError, match="damaged") as damaged:
        load_checkpoint(path)
    assert "\n" not in str(damaged.value)


@pytest.mark.parametrize(
    "text", ["5", "[]", '"text"', "[" * 100_000, '{"$dict": [["snapshots", [5]]]}', '{"$dict": [["objective", 5]]}']
)
def test_a_state_that_no_learner_saved_is_told_in_one_line_also_where_its_sums_fit(text: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = hashlib.sha256((path / "state.json").read_bytes()).hexdigest()
    (path / "state.json").write_text(text)
    sums = (path / "SHA256SUMS").read_text()
    (path / "SHA256SUMS").write_text(sums.replace(before, hashlib.sha256(text.encode()).hexdigest()))
    with pytest.raises(LearnerError, match="damaged") as damaged:
        load_checkpoint(path)
    assert "\n" not in str(damaged.value)


def test_whatever_else_is_named_like_a_checkpoint_is_left_alone(tmp_path: Path) -> None:
    checkpoints, name = CheckpointFolder(tmp_path / "run" / "checkpoints"), "commit-000001-step-12"
    (tmp_path / "run").mkdir()
    checkpoints.save(name, state(5))
    strays = [
        tmp_path / "run" / "checkpoints" / f"commit-{stray}"
        for stray in ("000002-step-1", "x", "000003-step-1", "000004")
    ]
    strays[0].write_text("mine")
    strays[1].write_text("mine")
    strays[2].symlink_to(tmp_path / "run" / "checkpoints" / name)
    strays[3].mkdir()
    assert checkpoints.names() == {name, strays[2].name}
    assert [checkpoints.is_taken(number) for number in (1, 2, 3, 5)] == [True, True, True, False]
    for path in (*strays[:3], tmp_path / "nothing"):
        checkpoints.remove(path.name)
    assert all(path.exists() for path in strays)
    checkpoints.remove(name)
    assert checkpoints.names() == set()


def test_a_run_directory_that_has_vanished_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=rf"^{tmp_path}/run has vanished while it was in use: bring it back") as gone:
        CheckpointFolder(tmp_path / "run" / "checkpoints").save("commit-000001-step-1", state(1))
    assert "\n" not in str(gone.value)


FULL = """
import resource, shutil, sys
from pathlib import Path
from test_learner_checkpoint import FILES, saved

folder = Path(sys.argv[1])
whole = saved(folder)
sizes = sorted((whole / name).stat().st_size for name in FILES)
for size in sizes:
    shutil.rmtree(whole)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, resource.RLIM_INFINITY))
    try:
        saved(folder)
    except OSError as error:
        print(error)
"""


def test_a_disk_that_is_full_is_one_line_whichever_file_it_refuses(tmp_path: Path) -> None:
    """As much as a process may write to a file stands in for the disk."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = rf"{tmp_path}/commit-\S+ cannot be written \(.*\): make room on its disk, then start again\n"
    assert re.fullmatch(f"({line}){{3}}", done.stdout)
