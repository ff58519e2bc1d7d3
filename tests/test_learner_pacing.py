"""The budget: what is received is owed, what is trained is paid, nothing is lost from the sum."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.errors import SettingsError
from learner.pacing import Pacing, PacingConfig

configs = st.builds(
    PacingConfig,
    replay_ratio=st.floats(0.05, 64),
    batch_size=st.integers(2, 256),
    max_owed_steps=st.integers(1, 16),
)
bursts = st.lists(st.integers(0, 300), max_size=40)


def train_what_is_due(pacing: Pacing) -> int:
    steps = 0
    while not pacing.wanted():
        pacing.spend()
        steps += 1
    return steps


def test_a_step_is_due_once_its_batch_is_owed() -> None:
    pacing = Pacing(PacingConfig(replay_ratio=16, batch_size=128))
    assert pacing.wanted() == 8
    pacing.received(7)
    assert pacing.wanted() == 1
    pacing.received(1)
    assert pacing.wanted() == 0
    pacing.spend()
    assert pacing.wanted() == 8


def test_a_ratio_below_one_trains_less_than_it_receives() -> None:
    pacing = Pacing(PacingConfig(replay_ratio=0.25, batch_size=8))
    assert pacing.wanted() == 32
    pacing.received(31)
    assert pacing.wanted() == 1


def test_a_burst_is_owed_up_to_the_limit_and_the_rest_is_forgone() -> None:
    pacing = Pacing(PacingConfig(replay_ratio=2, batch_size=10, max_owed_steps=3))
    pacing.received(100)
    assert pacing.owed == 30
    assert pacing.forgone == 170
    assert train_what_is_due(pacing) == 3


def test_in_the_long_run_the_samples_trained_are_the_ratio_of_the_pairs_received() -> None:
    pacing = Pacing(PacingConfig(replay_ratio=3.7, batch_size=64))
    steps = 0
    for _ in range(10_000):
        pacing.received(1)
        steps += train_what_is_due(pacing)
    assert abs(steps * 64 - 3.7 * 10_000) <= 64
    assert pacing.forgone == 0


@given(configs, bursts)
def test_every_sample_is_trained_owed_or_forgone(config: PacingConfig, pairs: list[int]) -> None:
    pacing, trained = Pacing(config), 0
    for count in pairs:
        pacing.received(count)
        assert 0 <= pacing.owed <= config.max_owed_steps * config.batch_size
        trained += train_what_is_due(pacing) * config.batch_size
    assert trained + pacing.owed + pacing.forgone == pytest.approx(config.replay_ratio * sum(pairs), abs=1e-6)


@given(configs, st.integers(0, 300))
def test_the_pairs_wanted_are_exactly_those_that_make_a_step_due(config: PacingConfig, before: int) -> None:
    pacing = Pacing(config)
    pacing.received(before)
    train_what_is_due(pacing)
    wanted = pacing.wanted()
    pacing.received(wanted - 1)
    assert pacing.owed < config.batch_size * (1 + 1e-9)
    pacing.received(1)
    assert pacing.owed >= config.batch_size * (1 - 1e-9)


@given(configs, bursts)
def test_a_resumed_budget_goes_on_as_the_first_would_have(config: PacingConfig, pairs: list[int]) -> None:
    pacing, resumed = Pacing(config), Pacing(config)
    for count in pairs:
        pacing.received(count)
        resumed.load_state_dict(pacing.state_dict())
        pacing.received(3)
        resumed.received(3)
        assert resumed.state_dict() == pacing.state_dict()
        assert train_what_is_due(resumed) == train_what_is_due(pacing)


@pytest.mark.parametrize(
    "wrong",
    [
        {"replay_ratio": 0},
        {"replay_ratio": math.nan},
        {"replay_ratio": math.inf},
        {"batch_size": 1},
        {"max_owed_steps": 0},
    ],
)
def test_settings_that_would_never_train_are_refused_in_one_line(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"^pacing needs replay_ratio > 0, .*, got .*$"):
        PacingConfig(**wrong)  # type: ignore[arg-type]
