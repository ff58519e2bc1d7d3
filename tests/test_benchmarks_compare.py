"""The comparison on a recording of one's own: every run once, intervals over seeds, and what is there is not run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recorded import made, recorded

from benchmarks.__main__ import main
from benchmarks.compare.figures import plot, tables

SMALL = ("--steps", "2", "--probes", "1", "--batch-size", "4", "--capacity", "4", "--control-limit", "20")


def line(policy: str, seed: int, last: float) -> dict[str, Any]:
    curve = [
        {"step": step, "pairs": step, "cpu_s": 2.0, "digits knn": value, "digits linear": 0.5}
        for step, value in ((0, 0.25), (8, last))
    ]
    told = {"objective": "babyagent", "steps": 8, "pairs": 8, "recording": "walk.mcap", "settings": "0"}
    return {"policy": policy, "seed": seed, "curve": curve, **told}


LINES = [
    line("loss", 0, 0.5),
    line("loss", 1, 0.75),
    line("fifo", 0, 0.25),
    line("fifo", 1, 0.75),
    line("fifo", 2, 0.0),
]


def test_each_row_has_its_interval_over_the_seeds_that_all_rows_have_and_its_paired_difference() -> None:
    """Two seeds at 50 and 75 %: a mean of 62.5, and 12.7 standard errors of 12.5 make half an interval."""
    text = tables(LINES)
    assert text.startswith("2 seeds, 8 steps, 8 pairs of walk.mcap.")
    assert "| babyagent, loss | 25.0 ± 0.0 | 62.5 ± 158.8 | +37.5 ± 158.8 |  | 2 |" in text
    assert "| babyagent, fifo | 25.0 ± 0.0 | 50.0 ± 317.7 | +25.0 ± 317.7 | -12.5 ± 158.8 | 2 |" in text


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    plot(LINES, tmp_path / "deep" / "plot.png")
    assert (tmp_path / "deep" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_runs_are_done_once_and_a_larger_grid_reuses_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walk = recorded(tmp_path / "walk.mcap", [made(seq) for seq in range(12)])
    words = ["compare", "--recording", str(walk), "--results", str(tmp_path / "lines.jsonl"), "--seeds", "0", *SMALL]
    assert main([*words, "--policies", "loss", "--json"]) == 0
    (first,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert [point["step"] for point in first["curve"]] == [0, 2]
    report = tmp_path / "report"
    assert main([*words, "--policies", "loss", "fifo", "--report", str(report), "--json"]) == 0
    said = capsys.readouterr()
    assert [json.loads(text)["policy"] for text in said.out.splitlines()] == ["loss", "fifo"]
    assert json.loads(said.out.splitlines()[0]) == first
    assert "1/1  ntxent fifo seed 0" in said.err
    assert "| ntxent, fifo |" in report.with_suffix(".md").read_text(encoding="utf-8")
    assert report.with_suffix(".png").is_file()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--objectives", "nonsense"], "--objective must be one of"),
        (["--policies", "lifo"], "--policies must be some of"),
        (["--batch-size", "64"], "the recording has 12 pairs: lower --batch-size"),
        (["--control", "/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_compared_is_one_line_before_the_first_run(
    words: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    walk = recorded(tmp_path / "walk.mcap", [made(seq) for seq in range(12)])
    assert main(["compare", "--recording", str(walk), "--results", str(tmp_path / "a.jsonl"), *SMALL, *words]) == 2
    assert what in capsys.readouterr().err
    assert not (tmp_path / "a.jsonl").exists()
