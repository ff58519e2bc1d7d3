"""The rate of a stream: up along a line, then level for ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learner_state import gone_on
from tiny_learner import TINY, make_pairs, tiny_learner

from learner.errors import SettingsError
from learner.schedule import ScheduleConfig, learning_rate, optimiser


def test_the_rate_rises_along_a_line_from_the_first_step_and_then_stays() -> None:
    config = ScheduleConfig(learning_rate=1e-3, warmup_steps=4)
    rates = [learning_rate(config, step) for step in range(7)]
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3, 1e-3])


@pytest.mark.parametrize("warmup_steps", [0, 1])
def test_without_a_warmup_the_rate_is_whole_from_the_first_step(warmup_steps: int) -> None:
    config = ScheduleConfig(learning_rate=2e-4, warmup_steps=warmup_steps)
    assert [learning_rate(config, step) for step in (0, 1, 10**9)] == [2e-4] * 3


@given(st.floats(1e-8, 1), st.integers(0, 10**6), st.integers(0, 10**9))
def test_the_rate_never_falls_is_never_zero_and_never_above_the_setting(rate: float, warmup: int, step: int) -> None:
    config = ScheduleConfig(learning_rate=rate, warmup_steps=warmup)
    assert 0 < learning_rate(config, step) <= learning_rate(config, step + 1) <= rate


@pytest.mark.parametrize(
    "wrong",
    [
        *({"learning_rate": rate} for rate in (0.0, float("nan"), float("inf"))),
        *({"weight_decay": decay} for decay in (-0.1, float("nan"), float("inf"))),
        *({"clip_grad_norm": norm} for norm in (0.0, float("nan"))),
        {"warmup_steps": -1},
    ],
)
def test_settings_that_cannot_train_are_refused_in_one_line(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"^schedule: \w+ must be .*, got .*$"):
        ScheduleConfig(**wrong)  # type: ignore[arg-type]


def test_sgd_moves_by_the_sum_of_its_gradients_each_nine_tenths_of_the_last() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    stepper = optimiser(ScheduleConfig(optimiser="sgd", weight_decay=0.5), [{"params": [weight]}])
    (group,) = stepper.param_groups
    assert group["lr"] == 0
    group["lr"] = 0.1
    at, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for gradient in ([3.0, 1.0], [-1.0, 4.0], [0.0, 2.0]):
        weight.grad = torch.tensor(gradient)
        stepper.step()
        velocity = 0.9 * velocity + np.array(gradient) + 0.5 * at
        at = at - 0.1 * velocity
    assert weight.tolist() == pytest.approx(at.tolist(), rel=1e-5)


def test_a_run_with_sgd_goes_on_bit_for_bit(tmp_path: Path, one_thread: None) -> None:
    schedule = replace(TINY.schedule, optimiser="sgd", learning_rate=0.05)
    gone_on(lambda: tiny_learner(replace(TINY, schedule=schedule)), make_pairs(32), 16, tmp_path / "commit")


def test_another_optimiser_is_refused_in_one_line() -> None:
    with pytest.raises(SettingsError, match=r"^schedule: optimiser must be adamw or sgd, got 'lars'$"):
        ScheduleConfig(optimiser="lars")  # type: ignore[arg-type]
