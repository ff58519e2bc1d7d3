"""The benchmarks measure what they say: their arithmetic against closed forms, and each of them once, small, for real."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import BENCHES, main
from benchmarks.demo import shortcomings
from benchmarks.learning import summarise

GOOD: dict[str, Any] = {
    "pairs_received": 100,
    "steps": 10,
    "loss_last": 3.0,
    "pairs_lost": 0,
    "probe": {"places": {"before": {"linear_student": 0.2}, "after": {"linear_student": 0.3}}},
}


def test_a_run_that_received_trained_and_improved_has_no_shortcomings() -> None:
    assert shortcomings(GOOD) == []


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ({"pairs_received": 0}, "no pair"),
        ({"steps": 0}, "no training step"),
        ({"loss_last": None}, "not a number"),
        ({"loss_last": math.nan}, "not a number"),
        ({"pairs_lost": 1}, "lost"),
        ({"probe": {"places": {"before": {"linear_student": 0.3}, "after": {"linear_student": 0.3}}}}, "no better"),
        ({"probe": {}}, "no better"),
    ],
)
def test_a_run_that_did_not_learn_has_the_reason_as_its_only_shortcoming(change: dict[str, Any], failure: str) -> None:
    assert [failure in one for one in shortcomings(GOOD | change)] == [True]


def test_a_run_of_few_steps_that_did_not_learn_is_told_to_take_longer() -> None:
    for steps, is_named in ((10, True), (500, False)):
        (text,) = shortcomings(GOOD | {"probe": {}, "steps": steps})
        assert ("make demo SECONDS_OF_TRAINING=300" in text) == is_named


def test_a_gain_is_the_mean_over_seeds_with_the_standard_error_of_that_mean() -> None:
    results = [{"before": {"x": 0.1}, "after": {"x": 0.1 + gain}} for gain in (0.01, 0.02, 0.03)]
    gain = summarise(results)["x"]
    assert gain.before == pytest.approx(0.1)
    assert gain.gain == pytest.approx(0.02)
    assert gain.standard_error == pytest.approx(0.01 / math.sqrt(3))
    assert gain.sigmas == pytest.approx(2 * math.sqrt(3))


def test_one_seed_alone_proves_nothing() -> None:
    gain = summarise([{"before": {"x": 0.1}, "after": {"x": 0.9}}])["x"]
    assert not gain.gain > 3 * gain.standard_error


def test_every_benchmark_is_listed_and_an_unknown_one_is_refused_with_the_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in BENCHES)
    assert main(["nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_a_setting_that_cannot_work_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["learning", "--preset", "huge"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["speed", "--rounds", "0"]) == 2


def test_the_demo_runs_a_rig_and_a_learner_and_leaves_summary_weights_and_report(tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = main(
        ["demo", "--run-dir", str(run), "--train-s", "10", "--fps", "60", "--size", "96x72", "--per-place", "3"]
    )
    summary = json.loads((run / "summary.json").read_text())
    failures = shortcomings(summary)
    # Ten seconds prove the way of the pairs; whether features got better is for the two minutes of the real demo.
    assert [failure for failure in failures if "told apart" not in failure] == []
    assert code == (1 if failures else 0)
    assert summary["pairs_suppressed"] > 0
    assert summary["samples_per_s"] > 0
    assert set(summary["probe"]) == {"digits", "places"}
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "export" / "student.safetensors").is_file()


def test_the_learning_benchmark_starts_alike_and_trains_on_its_budget(capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["learning", "--per-place", "2", "--seeds", "3", "--json"]
    lines = []
    for minutes in ("0.02", "1e-6"):  # the second time only its start is looked at
        assert main([*flags, "--cpu-min", minutes]) in (0, 1)
        lines.append(json.loads(capfd.readouterr().out))
    assert lines[0]["seed"] == 3
    assert lines[0]["before"] == lines[1]["before"]
    assert lines[0]["steps"] >= 1
    assert lines[0]["pairs_received"] >= 128
    assert lines[0]["cpu_s"] > 0
    assert lines[0]["rig_cpu_s"] > 0
