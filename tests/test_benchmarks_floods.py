"""The floods: one of them, short, for real; and what a plot and the goals show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.floods.bench import goals


def test_a_flooded_rig_keeps_its_memory_its_pairs_and_its_learner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "rss.svg"
    seconds = ("--before-s", "1", "--flood-s", "2", "--after-s", "1")
    assert main(["floods", "--floods", "endless_backfill", *seconds, "--plot", str(plot), "--json"]) == 0
    flood = json.loads(capsys.readouterr().out)["floods"]["endless_backfill"]
    assert flood["before_mb"] <= flood["most_mb"] < 400
    assert (flood["missing"], flood["ended"]) == (0, 0)
    assert flood["honest_pairs"] > 0
    assert plot.read_text().startswith("<?xml")


def test_too_much_memory_no_pair_a_missing_pair_or_an_end_misses_a_goal() -> None:
    good = {"most_mb": 400.0, "bound_mb": 400, "honest_pairs": 1, "missing": 0, "ended": 0}
    assert all(goal.met for goal in goals({"floods": {"x": good}}))
    for change in ({"most_mb": 400.1}, {"honest_pairs": 0}, {"missing": 1}, {"ended": 1}):
        assert [goal.met for goal in goals({"floods": {"x": good | change}})].count(False) == 1
