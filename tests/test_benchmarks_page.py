"""What a watcher costs: the arithmetic against numbers by hand, and the benchmark once, small, for real."""

from __future__ import annotations

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.page.bench import Period, summarise


def test_shares_are_of_the_watched_time_and_ratios_of_neighbours() -> None:
    periods = [
        Period(watched=False, steps=10, busy_s=1.0, handing_over_s=0.0, wall_s=2.0, cpu_s=1.5),
        Period(watched=True, steps=10, busy_s=1.1, handing_over_s=0.01, wall_s=2.0, cpu_s=1.8),
        Period(watched=False, steps=5, busy_s=1.0, handing_over_s=0.0, wall_s=2.0, cpu_s=1.5),
        Period(watched=True, steps=5, busy_s=0.9, handing_over_s=0.03, wall_s=2.0, cpu_s=1.8),
    ]
    figures = summarise(periods)
    assert figures["handing_over_share"] == pytest.approx(0.01)
    assert figures["handing_over_share_alone"] == 0
    assert figures["ratio_of_busy_s"] == pytest.approx((0.11 + 0.18) / (0.1 + 0.2))
    assert figures["min_ratio_of_neighbours"] == pytest.approx(0.9)
    assert figures["greatest_ratio_of_neighbours"] == pytest.approx(1.1)
    assert figures["ratio_of_cpu_s"] == pytest.approx(1.2)
    assert figures["steps"] == 30


def test_a_short_run_measures_both_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    main(["page", "--batch-size", "2", "--stretches", "1", "--stretch-s", "0.5", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["steps"] >= 2
    assert figures["busy_s_a_step_alone"] > 0
    assert figures["handing_over_share_alone"] < figures["handing_over_share"] + 1


def test_settings_that_cannot_be_measured_with_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--stretches", "0"], ["--stretch-s", "0"], ["--preset", "huge"]):
        assert main(["page", *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err
