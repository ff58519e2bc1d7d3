"""A comparison shows several runs on one page: their differences, each run in its colour, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_learner_report import Page, summary, write_lines

from learner.__main__ import PROGRAM
from learner.errors import LearnerError
from learner.report.compare import write_comparison
from learner.report.figures import MAX_RUNS
from stream.host.program import Stop


def write_run(folder: Path, *, rate: float, gain: float, **told: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary() | told))
    (folder / "config.json").write_text(json.dumps({"seed": 5, "schedule": {"learning_rate": rate}}))
    write_lines(folder / "steps.jsonl", [{"step": s, "loss": 5 - s * rate, "refused": []} for s in range(1, 9)])
    probes = [{"step": s, "set": "digits", "encoder": "student", "knn": 0.25 + gain * s, "linear": 0.5} for s in (0, 1)]
    write_lines(folder / "probes.jsonl", probes)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        write_run(tmp_path / "slow", rate=0.125, gain=0.05, steps=40),
        write_run(tmp_path / "fast", rate=0.5, gain=-0.05, steps=80),
    ]


def compared(runs: list[Path], tmp_path: Path) -> tuple[str, str]:
    """The page, and its text alone."""
    html = write_comparison(runs, tmp_path / "both.html").read_text(encoding="utf-8")
    return html, Page(html).text


def test_what_differs_stands_side_by_side_and_what_does_not_is_left_out(runs: list[Path], tmp_path: Path) -> None:
    html, text = compared(runs, tmp_path)
    assert "<th>schedule.learning_rate</th><td>0.125</td><td>0.5</td>" in html
    assert "seed" not in text.lower().replace("seeds", "")
    assert "<th>training steps</th><td>40</td><td>80</td>" in html
    assert "<th>digits, student, k-NN</th><td>25.0 → 30.0 (+5.0)</td><td>25.0 → 20.0 (-5.0)</td>" in html


def test_a_setting_that_only_has_another_name_in_an_earlier_version_does_not_differ(
    runs: list[Path], tmp_path: Path
) -> None:
    for run, name, factor in zip(runs, ("most_rollbacks", "max_rollbacks"), (0.5, 0.25), strict=True):
        settings = {"guard": {name: 3, "rate_after_rollback": factor}}
        (run / "config.json").write_text(json.dumps(settings))
    html, text = compared(runs, tmp_path)
    assert "<th>guard.rate_after_rollback</th><td>0.5</td><td>0.25</td>" in html
    assert "rollbacks" not in text.replace("rollbacks after a collapse", "")


def test_curves_lie_over_each_other_in_the_colours_of_their_runs(runs: list[Path], tmp_path: Path) -> None:
    html, text = compared(runs, tmp_path)
    assert "digits, student: k-NN, %" in text
    for figure in html.split("<figure>")[1:]:
        assert "stroke: var(--run0)" in figure
        assert "stroke: var(--run1)" in figure
    assert not {"script", "link", "img"} & set(Page(html).tags)


@pytest.mark.parametrize("file", ["summary.json", "config.json", "steps.jsonl", "probes.jsonl"])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_file_that_is_missing_or_damaged_is_named_and_the_rest_compared(
    runs: list[Path], tmp_path: Path, file: str, damaged: bool
) -> None:
    if damaged:
        (runs[1] / file).write_bytes(b'\xff{"cut')
    else:
        (runs[1] / file).unlink()
    html, text = compared(runs, tmp_path)
    assert f"fast: {file} is missing, empty or damaged." in text
    assert "slow: " not in text
    assert "var(--run0)" in html


def test_folders_of_the_same_name_are_told_apart_and_no_name_becomes_markup(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / parent / "<i>", rate=0.1, gain=0.1) for parent in ("one", "two")]
    html, text = compared(runs, tmp_path)
    assert "one/<i>" in text
    assert "two/<i>" in text
    assert "<i>" not in html


@pytest.mark.parametrize(
    ("choose", "says"),
    [
        (lambda runs: [runs[0], runs[0]], "the same run is given twice"),
        (lambda runs: runs * MAX_RUNS, f"at most {MAX_RUNS} runs"),
        (lambda runs: [runs[0], runs[0] / "nothing"], "is no folder"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs: list[Path], tmp_path: Path, choose: Any, says: str) -> None:
    with pytest.raises(LearnerError, match=says):
        write_comparison(choose(runs), tmp_path / "both.html")
    assert not (tmp_path / "both.html").exists()


def test_the_command_compares_where_several_runs_are_given(runs: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "both.html"
    assert PROGRAM.run(["report", *map(str, runs), "--out", str(path)], Stop()).text == str(path)
    assert "Settings that differ" in path.read_text()
    PROGRAM.run(["report", str(runs[0]), "--out", str(path)], Stop())
    assert "Settings that differ" not in path.read_text()
    assert not (runs[0] / "report.html").exists()
