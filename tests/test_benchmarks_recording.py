"""The benchmark of recordings runs, and its figures are of the rows it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.recording import GOALS_MB_S


def test_it_times_writing_and_reading_and_says_which_goals_were_met(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["recording", "--rounds", "2", "--pairs", "6", "--folder", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    met = [found["mb_s"][f"{kind}: recording"] >= goal for kind, goal in GOALS_MB_S.items()]
    assert [found["write_goal_met"], found["read_goal_met"]] == met
    assert code == (0 if all(met) else 1)
    assert len(found["mb_s"]) == 8
    assert all(low <= found["mb_s"][name] <= high for name, (low, high) in found["range_mb_s"].items())
    assert list(tmp_path.iterdir()) == []


def test_it_prints_a_table_and_refuses_nonsense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["recording", "--rounds", "1", "--pairs", "3", "--folder", str(tmp_path)])
    assert "write: recording" in capsys.readouterr().out
    assert main(["recording", "--pairs", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
