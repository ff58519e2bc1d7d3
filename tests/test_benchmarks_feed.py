"""The live feed: shares over time in table and plot, pictures beside the results, and runs that are done once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from benchmarks.__main__ import main
from benchmarks.feed.bench import goals
from benchmarks.feed.figures import plot, tables


def line(network: str, memory: str, light: float, pairs_per_s: float = 40.0) -> dict[str, Any]:
    points = [
        {"step": step, "explained_light": share, "explained_contrast": 0.25, "explained_colour": 0.0}
        for step, share in ((0, 0.0), (10, light))
    ]
    return {"network": network, "memory": memory, "seed": 0, "curve": points, "pairs_per_s": pairs_per_s}


LINES = [line("plain", "greedy", 0.5), line("plain", "reservoir", 0.75, 20.0)]


def test_the_table_has_the_shares_at_each_moment() -> None:
    title, _, head, _, greedy, reservoir = tables(LINES).splitlines()[:6]
    assert title == "1 seed(s)."
    assert head == "| network | memory | step 0 | step 10 | pairs/s |"
    assert greedy == "| plain | greedy | 0 / 25 / 0 | 50 / 25 / 0 | 40 |"
    assert reservoir == "| plain | reservoir | 0 / 25 / 0 | 75 / 25 / 0 | 20 |"


def test_the_slowest_run_of_a_network_decides_whether_it_keeps_up_with_a_camera() -> None:
    (goal,) = goals(LINES)
    assert (goal.reached, goal.met) == (20.0, False)


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    plot(LINES, tmp_path / "deep" / "plot.png")
    assert (tmp_path / "deep" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_leaves_its_pictures_over_time_and_is_done_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "lines.jsonl"
    words = ["feed", "--networks", "variational", "--memories", "greedy", "--pairs", "140", "--steps", "8"]
    words += ["--capacity", "130", "--results", str(lines), "--report", str(tmp_path / "report"), "--json"]
    main(words)
    found = json.loads(capsys.readouterr().out.splitlines()[0])
    assert [point["step"] for point in found["curve"]] == list(range(9))
    assert found["curve"][-1]["explained_light"] > found["curve"][0]["explained_light"]
    sheet = cv2.imread(str(tmp_path / "lines" / "variational-greedy-0.png"))
    assert sheet is not None
    assert sheet.shape == (10 * 64, 8 * 64, 3)  # the pictures, the random start and 8 moments
    main(words)
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == found
    assert len(lines.read_text().splitlines()) == 1
    assert "| variational | greedy |" in (tmp_path / "report.md").read_text(encoding="utf-8")
