"""The bench of the stream's probe: its arithmetic, and one small run."""

from __future__ import annotations

import math

import pytest

from benchmarks.holdout import COMMAND, HoldoutSettings, correlations, measure, render
from learner.runs.titles import KINDS


def test_the_correlation_is_that_of_ranks_over_the_probes_that_have_a_number() -> None:
    lines = [
        {"right": right, "visit": None, "places knn": right**3, "places linear": -right, "student_information": 1.0}
        for right in (0.1, 0.5, 0.2, 0.9)
    ]
    found = correlations(lines)
    assert found["right"] == [pytest.approx(1), pytest.approx(-1)]
    assert all(math.isnan(value) for value in (*found["visit"], *found["student_information"]))


def test_a_small_run_has_both_probes_in_each_line() -> None:
    settings = HoldoutSettings(objectives=("ntxent",), seeds=(1,), steps=2, probes=1, share=0.5, per_place=2)
    (line,) = measure(settings)
    assert line["step"] == 2
    assert line["pairs"] >= 0
    assert 0 <= line["places knn"] <= 1
    assert set(KINDS) <= line.keys()
    assert render(settings, [line])
    assert COMMAND is not None
