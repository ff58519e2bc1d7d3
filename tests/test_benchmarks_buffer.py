"""The benchmark of buffers: its contenders do what they say, its goals follow from its figures, and it runs, small, for real."""

from __future__ import annotations

import importlib.util
import json
import re

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.buffer.bench import BATCH, OPERATIONS, BufferSettings, Figures, goals_of, measure
from benchmarks.buffer.contenders import CONTENDERS, LarsBuffer, OurBuffer
from benchmarks.shared.bench import Goal


def figures(**offer: dict[str, float]) -> Figures:
    """The same times for all three operations."""
    return {name: dict.fromkeys(OPERATIONS, by_size) for name, by_size in offer.items()}


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_contender_keeps_as_many_keys_as_it_holds_and_draws_what_it_is_told_to_draw_often(name: str) -> None:
    package = CONTENDERS[name].needs
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    buffer = CONTENDERS[name].make(1000)
    for start in range(0, 1500, 250):
        buffer.offer(np.arange(start, start + 250), np.full(250, -2.0))
    drawn = np.asarray(buffer.sample(100))
    rated = np.unique(drawn)[:5]
    kind = type(buffer.sample(1))
    handles = rated if kind is np.ndarray else importlib.import_module("torch").from_numpy(rated)
    buffer.update(handles, np.full(5, 2.0))
    counts = np.isin(np.asarray(buffer.sample(4000)), rated).sum()
    assert (counts > 2 * 4000 * 5 / 1000) == (name != "lars")  # which draws all alike


def test_nearly_every_arrival_is_kept_by_ours_as_by_the_others() -> None:
    buffer, before = OurBuffer(1000), 0
    for start in range(0, 3000, 100):
        keys = np.arange(start, start + 100)
        buffer.offer(keys, np.random.default_rng(start).uniform(-2, 2, 100))
        before += np.isin(keys, buffer.reservoir.keys()).sum()
    assert before > 0.95 * 3000


def test_lars_keeps_a_uniform_share_of_what_arrived_where_all_losses_are_equal() -> None:
    kept = np.zeros(60)
    for seed in range(400):
        buffer = LarsBuffer(12, seed=seed)
        for key in range(60):
            buffer.offer(np.array([key]), np.zeros(1))
        kept[buffer.keys] += 1
    expected = 400 * 12 / 60
    assert np.abs(kept - expected).max() < 4.5 * np.sqrt(expected * (1 - 12 / 60))


def test_the_victims_of_lars_go_by_their_loss_and_the_highest_loss_never_goes() -> None:
    buffer = LarsBuffer(3)
    buffer.offer(np.arange(3), np.array([0.0, 1.0, 3.0]))
    victims = np.bincount([buffer.victim() for _ in range(3000)], minlength=3)
    assert victims[2] == 0
    assert victims[0] / victims.sum() == pytest.approx(3 / 5, abs=0.04)


def test_goals_are_the_time_at_a_million_keys_the_peers_times_there_and_the_growth() -> None:
    times = figures(
        ours={"10000": 1.0, "1000000": 2.0, "10000000": 2.5}, cpprb={"1000000": 1.0}, lars={"1000000": 900.0}
    )
    found = {goal.name: goal for goal in goals_of(times)}
    assert found["offer: microseconds a key at 10^6"].met
    assert found["update: of cpprb's time at 10^6"] == Goal("update: of cpprb's time at 10^6", 2.0, 1.0)
    assert not found["update: of cpprb's time at 10^6"].met
    assert not found["sample: growth from 10000 to 10000000 keys"].met
    assert len(found) == 9


def test_what_was_not_measured_is_no_goal() -> None:
    assert list(goals_of(figures(lars={"1000000": 1.0}))) == []
    assert list(goals_of(figures(ours={"10000": 1.0}))) == []


def test_the_bench_gives_the_cost_of_every_operation_and_names_whom_it_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(["buffer", "--sizes", "300", "1000", "--rounds", "1", "--batches", "2", "--json"])
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert code == (0 if all(goal["met"] for goal in result["goals"].values()) else 1)
    assert set(result["us_per_key"]) | set(result["left_out"]) == set(CONTENDERS)
    for name, by_operation in result["us_per_key"].items():
        assert set(by_operation) == set(OPERATIONS)
        assert all(us > 0 for by_size in by_operation.values() for us in by_size.values())
        assert set(result["bytes_per_key"][name]) == set(by_operation["offer"]) == {"300", "1000"}
    assert {"ours", "lars"} <= result["us_per_key"].keys()
    assert result["batch"] == BATCH
    assert {"cpu", "cores", "python", "numpy"} <= result["machine"].keys()
    assert all(f"{name}: left out" in said.err for name in result["left_out"])


def test_a_size_that_does_not_fit_into_memory_is_left_out_with_the_reason() -> None:
    result = measure(BufferSettings(sizes=(400,)), lambda: 499 * 400)
    assert "not free" in result["left_out"]["400 keys"]
    assert all(by_size == {} for by_size in result["us_per_key"]["ours"].values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes", "10"], "--sizes must be at least 256 and at most 100000000"),
        (["--sizes", "1000000000"], "--sizes"),
        (["--rounds", "0"], "--rounds"),
        (["--turn-s", "0"], "--turn-s"),
        (["--contenders", "reverb"], "--contenders must be some of: ours; torchrl"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["buffer", *flags]) == 2
    assert re.search(message, capsys.readouterr().err)
