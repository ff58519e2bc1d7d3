"""The rate of a stream: up along a line, then level for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.errors import SettingsError
from learner.schedule import ScheduleConfig, learning_rate


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
    [{"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"weight_decay": -0.1}, {"clip_grad_norm": 0.0}],
)
def test_settings_that_cannot_train_are_refused_in_one_line(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"^schedule needs .*, got .*$"):
        ScheduleConfig(**wrong)  # type: ignore[arg-type]


def test_a_negative_warmup_is_refused() -> None:
    with pytest.raises(SettingsError, match="warmup_steps >= 0"):
        ScheduleConfig(warmup_steps=-1)
