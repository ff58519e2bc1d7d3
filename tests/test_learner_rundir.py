"""A run's folder: made for one set of settings, found again, and never touched by another."""

from __future__ import annotations

import json
import math
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_learner import TINY

from buffer.store import Store
from learner.config import PRESETS, LearnerConfig, preset
from learner.errors import Failed, SettingsError
from learner.objectives.contrastive import Contrastive
from learner.runs.folder import RunDirectory, name_of
from learner.runs.settings import settings_of
from stream.fsync import replace_file
from stream.pair import NAME


def test_a_line_that_the_disk_has_no_room_for_leaves_no_half_behind(tmp_path: Path) -> None:
    directory, limits = RunDirectory(tmp_path / "run", TINY), resource.getrlimit(resource.RLIMIT_FSIZE)
    directory.append("probes", {"step": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(OSError, match=r"No space left .*probes\.jsonl"):
            directory.append("probes", {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    directory.append("probes", {"step": 3})
    assert directory.lines("probes") == [{"step": 1}, {"step": 3}]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("config", [TINY, *PRESETS.values()], ids=["tiny", *PRESETS])
def test_a_run_is_found_again_by_its_settings(config: LearnerConfig, tmp_path: Path) -> None:
    """Infinite half-lives and pairs of numbers included."""
    assert config.memory.numbers.half_life == math.inf
    first = RunDirectory(tmp_path / "deep" / "run", config)
    before = contents(first.path)
    first.append("steps", {"step": 1})
    again = RunDirectory(first.path, config)
    assert again.lines("steps") == [{"step": 1}]
    assert contents(first.path) == before | {"steps.jsonl": b'{"step": 1}\n'}


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    RunDirectory(tmp_path, TINY)
    assert json.loads((tmp_path / "config.json").read_text())["pacing"]["batch_size"] == 8


def test_a_run_that_was_killed_while_it_wrote_its_settings_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(draft: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device", str(draft))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(SettingsError, match="cannot be written"):
            RunDirectory(tmp_path / "run", TINY)
    assert len(contents(tmp_path)) == 1
    RunDirectory(tmp_path / "run", TINY)
    assert list(contents(tmp_path)) == ["run/config.json"]


def test_other_settings_are_refused_by_name_and_nothing_is_written(tmp_path: Path) -> None:
    RunDirectory(tmp_path, TINY)
    before = contents(tmp_path)
    other = replace(TINY, seed=3, memory=replace(TINY.memory, half_life=50.0))
    with pytest.raises(SettingsError, match=r"memory\.half_life: 50\.0, inf; seed: 3, 0.*choose another") as refused:
        RunDirectory(tmp_path, other)
    assert "\n" not in str(refused.value)
    assert contents(tmp_path) == before


def test_a_run_of_another_objective_is_refused_by_its_name(tmp_path: Path) -> None:
    RunDirectory(tmp_path, PRESETS["cpu"])
    with pytest.raises(SettingsError, match=r"objective\.name: 'contrastive', 'ntxent'.*: choose another") as refused:
        RunDirectory(tmp_path, preset("cpu", Contrastive))
    assert "\n" not in str(refused.value)


def test_of_many_other_settings_the_first_are_named(tmp_path: Path) -> None:
    RunDirectory(tmp_path, TINY)
    with pytest.raises(SettingsError, match=r"encoder\.image_size: 32, 16; .*; \.\.\.") as refused:
        RunDirectory(tmp_path, PRESETS["cpu"])
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("name", ["steps.jsonl", "probes.jsonl", "summary.json", "export/student.safetensors"])
def test_what_a_run_writes_after_its_first_commit_shows_that_it_is_not_new(name: str, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, TINY)
    run.store.touch()
    run.checkpoints.mkdir()
    run.export.mkdir()
    (tmp_path / "steps.jsonl").touch()
    run.require_new()
    (tmp_path / name).write_text("something")
    with pytest.raises(SettingsError, match=rf"has {name} of a run, but no commit.*restore pairs\.sqlite") as refused:
        run.require_new()
    assert "\n" not in str(refused.value)


def test_a_foreign_folder_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(SettingsError, match="holds no run"):
        RunDirectory(tmp_path, TINY)
    with pytest.raises(SettingsError, match="holds no run"):
        RunDirectory(tmp_path / "letters.txt", TINY)
    assert contents(tmp_path) == {"letters.txt": b"mine"}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, "[1]", '{"seed": "x"}', '{"memory": {"fresh_capacity": 1}}', '{"objective": {}}', "\xff"],
)
def test_settings_that_cannot_be_read_are_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(SettingsError, match="cannot be read as a run's settings") as refused:
        RunDirectory(tmp_path, TINY)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["nowhere", "a_file"])
def test_what_is_no_run_is_said_to_be_none(name: str, tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("")
    with pytest.raises(SettingsError, match=rf"{name} is no run, it has no config\.json: .*learner runs FOLDER"):
        settings_of(tmp_path / name)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        RunDirectory(tmp_path / "file" / "run", TINY)
    with pytest.raises(SettingsError, match="cannot be written"):
        RunDirectory(Path("/proc/self/run"), TINY)


def test_a_line_that_a_crash_cut_is_left_out_and_gone_after_a_rewind(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, TINY)
    for step in range(5):
        run.append("steps", {"step": step, "loss": math.nan})
        run.append("probes", {"step": 2 * step})
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert [line["step"] for line in run.lines("steps")] == [0, 1, 2, 3, 4]
    run.rewind(3)
    run.append("steps", {"step": 4})
    assert [line["step"] for line in run.lines("steps")] == [0, 1, 2, 3, 4]
    assert [line["step"] for line in run.lines("probes")] == [0, 2]


def test_a_run_without_lines_has_none(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path, TINY).lines("steps") == []


def test_a_run_that_another_learner_works_on_is_refused_until_that_one_is_gone(tmp_path: Path) -> None:
    first, second = RunDirectory(tmp_path, TINY), RunDirectory(tmp_path, TINY)
    with first.locked():
        before = contents(tmp_path)
        with pytest.raises(Failed, match="in use by another learner: stop that one"), second.locked():
            pass
        assert contents(tmp_path) == before
    with second.locked():
        pass


def test_pictures_and_summary_replace_the_former_ones_whole(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, TINY)
    for count in (1, 2):
        run.write_album({"left": np.full((count, 2), count)})
        run.write_summary({"steps": count})
    with np.load(tmp_path / "album.npz", allow_pickle=False) as album:
        assert album["left"].tolist() == [[2, 2], [2, 2]]
    assert json.loads((tmp_path / "summary.json").read_text()) == {"steps": 2}
    assert sorted(contents(tmp_path)) == ["album.npz", "config.json", "summary.json"]


def test_a_reader_finds_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")
    with path.open("rb") as reader:
        replace_file(path, b"new and longer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new and longer"


def test_the_name_of_a_run_says_which_and_where_and_is_a_consumers_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "gpu box.example")
    assert name_of(tmp_path / "first") == "first-gpu-box.example"
    assert name_of(tmp_path / "…") == "unnamed-gpu-box.example"
    monkeypatch.setattr("platform.node", lambda: "h" * 99)
    with Store(tmp_path / "pairs.sqlite", name=name_of(tmp_path / ("r" * 99))) as store:
        assert NAME.fullmatch(store.identity)
