"""A comparison shows several runs on one page: their differences, each run in its colour, and what is missing."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_learner_report import Page, summary, write_lines

from learner.__main__ import PROGRAM
from learner.errors import LearnerError
from learner.report.compare import write_comparison
from learner.report.compared import mean_curve, mean_of, read, unlike
from learner.report.figures import MAX_RUNS
from stream.host.program import Stop


def write_run(folder: Path, *, rate: float, gain: float, seed: int = 5, **told: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary() | told))
    (folder / "config.json").write_text(json.dumps({"seed": seed, "schedule": {"learning_rate": rate}}))
    write_lines(
        folder / "steps.jsonl",
        [{"step": s, "loss": 5 - s * rate, "refused": [], "received": 10 * s, "seconds": s / 2} for s in range(1, 9)],
    )
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
    html = write_comparison(runs, tmp_path / "both.html")[0].read_text(encoding="utf-8")
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
    assert not re.search(r"slow: \S+ is missing", text)
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
        (lambda runs: runs * MAX_RUNS, "the same run is given twice"),
        (lambda runs: [runs[0], runs[0] / "nothing"], "is no folder"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs: list[Path], tmp_path: Path, choose: Any, says: str) -> None:
    with pytest.raises(LearnerError, match=says):
        write_comparison(choose(runs), tmp_path / "both.html")
    assert not (tmp_path / "both.html").exists()


def test_the_command_compares_where_several_runs_are_given(runs: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "both.html"
    assert (
        PROGRAM.run(["report", *map(str, runs), "--out", str(path)], Stop()).text
        == f"{path}\n{path.with_suffix('.csv')}"
    )
    beside = runs[0].parent / "comparison.html"
    assert PROGRAM.run(["report", *map(str, runs)], Stop()).text.startswith(f"{beside}\n")
    assert "Settings that differ" in path.read_text()
    PROGRAM.run(["report", str(runs[0]), "--out", str(path)], Stop())
    assert "Settings that differ" not in path.read_text()
    assert not (runs[0] / "report.html").exists()


@pytest.fixture
def seeds(tmp_path: Path) -> list[Path]:
    slow = [
        write_run(tmp_path / f"slow-{seed}", rate=0.125, gain=0.02 * seed, seed=seed, steps=40) for seed in (1, 2, 3)
    ]
    return [*slow, write_run(tmp_path / "fast", rate=0.5, gain=0.2, steps=40)]


def test_runs_that_differ_in_the_seed_alone_have_one_colour_and_a_mean_with_its_interval(
    seeds: list[Path], tmp_path: Path
) -> None:
    html, text = compared(seeds, tmp_path)
    assert "slow-1 and 2 more seeds" in text
    assert "mean of slow-1 and 2 more seeds" in text
    assert "29.0 ± 5.0 (+4.0 ± 5.0)" in text  # Student's t of 3 values 2 apart: 4.303 * 2 / sqrt(3)
    for figure in html.split("<figure>")[1:]:
        assert "stroke: var(--run0)" in figure
        assert "var(--run2)" not in figure


def test_runs_that_repeat_a_seed_are_no_further_seeds(seeds: list[Path], tmp_path: Path) -> None:
    again = [
        write_run(tmp_path / f"again-{seed}", rate=0.125, gain=0.02 * seed, seed=seed, steps=40) for seed in (1, 2)
    ]
    text = compared([*seeds[:2], *again], tmp_path)[1]
    assert "slow-1 and 1 more seed" in text
    assert "again-1 and 1 more seed" in text


def test_of_two_seeds_the_range_is_drawn_and_it_is_said_why(seeds: list[Path], tmp_path: Path) -> None:
    two, three = (compared(some, tmp_path)[1] for some in (seeds[1:], seeds))
    assert "Of two seeds it is their range: an interval from two values" in two
    assert "The band around a mean is its 95 % interval" not in two
    assert "The band around a mean is its 95 % interval" in three
    assert "Of two seeds" not in three


def test_a_mean_has_an_interval_from_two_values_on_and_a_curve_where_all_runs_are() -> None:
    assert mean_of([1.0, 3.0]) == pytest.approx((2.0, 12.706), rel=1e-3)
    mean, half = mean_of([1.0])
    assert (mean, half == half) == (1.0, False)
    one, other = ((np.array([0.0, 4.0]), np.array([0.0, 4.0])), (np.array([2.0, 6.0]), np.array([2.0, 6.0])))
    x, middle, error = mean_curve([one, other])
    assert (x[0], x[-1]) == (2.0, 4.0)
    assert np.allclose(middle, x)
    assert np.allclose(error, 0)
    lower = np.array([2.0, 6.0]), np.array([1.0, 1.0])
    _, middle, error = mean_curve([other, lower])
    assert (middle[0], error[0], middle[-1], error[-1]) == (1.5, 0.5, 3.5, 2.5)  # of two seeds: their range
    _, _, error = mean_curve([other, lower, lower])
    assert error[-1] == pytest.approx(4.303 * np.std([6, 1, 1], ddof=1) / np.sqrt(3), rel=1e-3)
    assert len(mean_curve([one, (np.array([9.0]), np.array([9.0]))])[0]) == 0


def test_a_comparison_says_what_makes_last_values_hard_to_compare(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", rate=0.1, gain=0.1, steps=101, streams=["rig/11111111"])
    b = write_run(tmp_path / "b", rate=0.2, gain=0.1, steps=60, streams=["rig/22222222"])
    (b / "probes.jsonl").write_text((b / "probes.jsonl").read_text().replace("digits", "places"))
    _, text = compared([a, b], tmp_path)
    assert "The runs differ in length (steps: a: 101; b: 60): compare their curves, not their last values." in text
    assert "different recordings or walks: a: rig/11111111; b: rig/22222222." in text
    assert "different control sets: a: digits; b: places." in text
    alike = [read(write_run(tmp_path / name, rate=0.1, gain=0.1, steps=100), name) for name in "cd"]
    assert list(unlike(alike)) == []


def test_curves_can_be_seen_over_steps_pairs_or_seconds_without_a_script(runs: list[Path], tmp_path: Path) -> None:
    html, text = compared(runs, tmp_path)
    assert html.count('type="radio"') == 6
    assert html.count(" checked") == 2
    for words in ("steps", "pairs received", "seconds"):
        assert words in text
        assert f">{words}</text>" in html
    for name in ("probes", "training"):
        assert len(re.findall(f'name="{name}"', html)) == 3


def test_coinciding_curves_are_both_seen(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, rate=rate, gain=0.1) for name, rate in (("a", 0.1), ("b", 0.1001))]
    html, _ = compared(runs, tmp_path)
    widths = [
        float(re.search(rf"stroke: var\(--run{index}\); stroke-width: ([0-9.]+)", html)[1])  # type: ignore[index]
        for index in (0, 1)
    ]
    assert widths[0] > 1.5 * widths[1]


def test_the_numbers_are_in_a_csv_beside_the_page(runs: list[Path], tmp_path: Path) -> None:
    _, path = write_comparison(runs, tmp_path / "both.html")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [row for row in rows if row["name"] == "loss" and row["run"] == "fast"]
    assert [float(row["value"]) for row in losses] == [5 - 0.5 * step for step in range(1, 9)]
    assert (losses[3]["step"], losses[3]["pairs"], losses[3]["seconds"], losses[3]["seed"]) == ("4", "40", "2.0", "5")
    probes = [row for row in rows if row["name"] == "digits, student: knn" and row["run"] == "slow"]
    assert [(row["step"], row["pairs"], float(row["value"])) for row in probes] == [("0", "0", 0.25), ("1", "10", 0.3)]
