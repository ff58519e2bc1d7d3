"""`learner runs` lists what is in a folder of runs, damaged and running ones too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_learner_report import write_lines

from learner.__main__ import PROGRAM
from learner.cli.runs import described
from learner.config import PRESETS
from learner.errors import SettingsError
from learner.runs.folder import RunDirectory
from stream.host.program import Stop


def made(path: Path, steps: int) -> RunDirectory:
    run = RunDirectory(path, PRESETS["cpu"])
    write_lines(path / "steps.jsonl", [{"step": s, "received": 10 * s} for s in range(1, steps + 1)])
    probes = [{"step": s, "set": "digits", "encoder": "student", "knn": 0.5 + s / 100} for s in (0, steps)]
    write_lines(path / "probes.jsonl", [*probes, {"step": 1, "set": "digits", "encoder": "teacher", "knn": 0.9}])
    return run


def test_runs_are_listed_with_step_pairs_accuracy_and_who_is_at_work(tmp_path: Path) -> None:
    made(tmp_path / "a", 5)
    running = made(tmp_path / "days" / "b", 7)
    (tmp_path / "no run").mkdir()
    with running.locked():
        text = PROGRAM.run(["runs", str(tmp_path)], Stop()).text
        assert text.count("at work") == 1
    assert f"{tmp_path}/days/b  step 7, 70 pairs, ntxent, seed 0, at work  digits k-NN 57.0 %" in text
    assert f"{tmp_path}/a  step 5, 50 pairs, ntxent, seed 0, last step " in text
    listed = json.loads(PROGRAM.run(["runs", str(tmp_path), "--json"], Stop()).text)
    assert sorted((one["step"], one["at_work"]) for one in listed) == [(5, False), (7, False)]


def test_a_damaged_run_is_listed_with_what_can_be_read(tmp_path: Path) -> None:
    made(tmp_path, 5)
    for name in ("config.json", "steps.jsonl", "probes.jsonl"):
        (tmp_path / name).write_bytes(b'\xff{"cut')
    one = described(tmp_path)
    assert (one.step, one.objective, one.knn) == (0, "?", {})


def test_a_folder_without_runs_is_said(tmp_path: Path) -> None:
    assert PROGRAM.run(["runs", str(tmp_path)], Stop()).text == f"no run in {tmp_path}"
    with pytest.raises(SettingsError, match="is no folder"):
        PROGRAM.run(["runs", str(tmp_path / "none")], Stop())
