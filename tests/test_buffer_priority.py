"""From priorities to phi: scale-free, robust to outliers, following drift; stubborn pairs lose their priority."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffer.priority import PriorityScale, Stubbornness


def test_before_any_priority_and_while_all_are_equal_every_pair_is_average() -> None:
    scale = PriorityScale()
    assert scale.phi([3.0, -5.0]).tolist() == [0, 0]
    assert scale.observe([]).tolist() == []
    assert scale.observe([0.1] * 50).tolist() == [0] * 50
    assert scale.phi([0.1, 7.0]).tolist() == [0, 0]


def test_phi_is_the_standardised_priority_clipped_at_two_deviations() -> None:
    scale = PriorityScale()
    priorities = np.random.default_rng(0).normal(4.0, 0.5, 5000)
    phi = scale.observe(priorities)
    assert scale.mean == pytest.approx(priorities.mean())
    assert scale.deviation == pytest.approx(priorities.std())
    assert phi == pytest.approx(np.clip((priorities - priorities.mean()) / priorities.std(), -2, 2))
    assert scale.phi([1e6, -1e6]).tolist() == [2, -2]


@given(st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_phi_does_not_depend_on_the_unit_or_the_zero_of_the_priority(unit: float, zero: float) -> None:
    priorities = np.random.default_rng(1).lognormal(0, 1, (30, 16))
    plain, other = PriorityScale(memory=200), PriorityScale(memory=200)
    for batch in priorities:
        assert other.observe(unit * batch + zero) == pytest.approx(plain.observe(batch), abs=1e-6)


def test_the_distribution_is_the_exponentially_weighted_one() -> None:
    scale, memory = PriorityScale(memory=50), 50
    batches = np.random.default_rng(2).normal(0, 1, (8, 5))
    for batch in batches:
        scale.observe(batch)
    weight = np.repeat((1 - 1 / memory) ** (5 * np.arange(7, -1, -1)), 5)
    mean = np.average(batches.ravel(), weights=weight)
    assert scale.mean == pytest.approx(mean)
    assert scale.deviation**2 == pytest.approx(np.average((batches.ravel() - mean) ** 2, weights=weight))


def test_a_priority_that_drifts_keeps_a_phi_around_zero() -> None:
    scale, generator = PriorityScale(memory=500), np.random.default_rng(3)
    late = [scale.observe(generator.normal(1 + 0.002 * step, 0.3, 32)) for step in range(1000)][200:]
    assert abs(np.mean(late)) < 0.1
    assert 0.8 < np.std(late) < 1.1


def test_one_outlier_does_not_make_all_others_alike() -> None:
    scale, generator = PriorityScale(memory=1000), np.random.default_rng(4)
    scale.observe(generator.normal(5, 1, 1000))
    before = scale.deviation
    assert scale.observe([1e30]).tolist() == [2]
    assert scale.deviation < 1.02 * before
    assert abs(scale.mean - 5) < 0.2


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_a_change_of_the_priority_itself_is_followed_within_a_few_memories(factor: float) -> None:
    scale, generator = PriorityScale(memory=500), np.random.default_rng(5)
    scale.observe(generator.normal(5, 1, 500))
    for _ in range(200):
        scale.observe(factor * generator.normal(5, 1, 50))
    assert scale.mean == pytest.approx(5 * factor, rel=0.1)
    assert scale.deviation == pytest.approx(factor, rel=0.25)


def test_asking_for_phi_leaves_the_distribution_alone() -> None:
    scale = PriorityScale()
    scale.observe([1.0, 2.0, 3.0])
    before = scale.state_dict()
    scale.phi([50.0])
    assert scale.state_dict() == before


def test_phi_halves_with_each_half_life_of_its_measurement() -> None:
    scale = PriorityScale(age_half_life=10)
    assert scale.aged([2.0, 2.0, -1.0, 1.5], [0, 10, 20, 10_000_000]) == pytest.approx([2, 1, -0.25, 0])
    assert PriorityScale(age_half_life=math.inf).aged([1.25], [10_000]).tolist() == [1.25]


@pytest.mark.parametrize(
    ("priorities", "message"),
    [
        ([1.0, math.nan], r"priorities must be finite .* got \[nan\]"),
        ([math.inf], "finite"),
        ([1e200], "finite"),
        ([[1.0]], "vector of floats"),
        (["x"], "vector of floats"),
    ],
)
def test_bad_priorities_say_why_and_leave_the_distribution_alone(priorities: Any, message: str) -> None:
    scale, stubborn = PriorityScale(), Stubbornness()
    scale.observe([1.0, 2.0])
    before = scale.state_dict()
    for measure in (scale.observe, scale.phi):
        with pytest.raises(ValueError, match=message):
            measure(priorities)
    with pytest.raises(ValueError, match=r"finite|vector"):
        stubborn.damped(np.arange(len(priorities)), priorities, np.zeros(len(priorities)))
    assert scale.state_dict() == before
    assert len(stubborn) == 0


def test_a_bad_age_or_phi_says_why() -> None:
    scale = PriorityScale()
    with pytest.raises(ValueError, match=r"age_steps must be at least 0, got \[-1"):
        scale.aged([1.0], [-1])
    with pytest.raises(ValueError, match="one number for each"):
        scale.aged([1.0], [1, 2])
    with pytest.raises(ValueError, match="phi must be finite"):
        scale.aged([2.5], [1])


def test_a_pair_that_does_not_improve_over_three_replays_loses_half_its_phi_at_each_further_failure() -> None:
    stubborn = Stubbornness(patience=3, improvement=0.05, decay=0.5)
    priorities = [4.0, 4.1, 3.9, 4.0, 4.2, 3.85]  # the first sets the mark; none falls below 95 % of it
    phi = [stubborn.damped([7], [priority], [2.0])[0] for priority in priorities]
    assert phi == [2, 2, 2, 1, 0.5, 0.25]
    assert stubborn.damped([7], [3.7], [2.0]).tolist() == [2]  # a success forgives all


def test_a_pair_that_improves_or_is_easy_or_was_forgotten_keeps_its_phi() -> None:
    stubborn = Stubbornness(patience=1)
    for priority in (4.0, 3.0, 2.0, 1.0):
        assert stubborn.damped([1, 2], [priority, 5.0], [1.5, -1.5]).tolist() == [1.5, -1.5]
    assert stubborn.damped([2], [5.0], [1.0])[0] < 1
    stubborn.forget([2, 99])
    assert stubborn.damped([2], [5.0], [1.0]).tolist() == [1]
    assert len(stubborn) == 2


def test_a_priority_below_zero_is_refused_and_changes_nothing() -> None:
    stubborn = Stubbornness()
    with pytest.raises(ValueError, match="priorities must be at least 0"):
        stubborn.damped([1, 2], [1.0, -0.1], [0.0, 0.0])
    with pytest.raises(ValueError, match="one number for each"):
        stubborn.damped([1, 2], [1.0, 1.0], [0.0])
    assert len(stubborn) == 0


def test_saved_and_loaded_states_give_the_identical_next_step() -> None:
    generator = np.random.default_rng(6)
    scale, stubborn, keys = PriorityScale(memory=70), Stubbornness(patience=1), np.arange(9)
    for _ in range(30):
        priorities = generator.lognormal(0, 1, 9)
        stubborn.damped(keys, priorities, scale.observe(priorities))
    again, stubborn_again = PriorityScale(memory=70), Stubbornness(patience=1)
    again.load_state_dict(json.loads(json.dumps(scale.state_dict())))
    stubborn_again.load_state_dict(stubborn.state_dict())
    for _ in range(5):
        priorities = generator.lognormal(0, 1, 9)
        phi, phi_again = scale.observe(priorities), again.observe(priorities)
        assert np.array_equal(phi, phi_again)
        assert np.array_equal(
            stubborn.damped(keys, priorities, phi), stubborn_again.damped(keys, priorities, phi_again)
        )


def test_a_state_with_other_settings_or_damaged_is_refused_and_changes_nothing() -> None:
    scale, stubborn = PriorityScale(), Stubbornness()
    scale.observe([1.0, 2.0])
    stubborn.damped([1], [1.0], [0.0])
    before, record = scale.state_dict(), stubborn.state_dict()
    for bad in ({}, {**before, "settings": {}}, {**before, "squares": -1.0}, {**before, "mean": math.nan}):
        with pytest.raises(ValueError, match=r"the state.* must be"):
            scale.load_state_dict(bad)
    two, nan = np.array([1, 1]), np.array([math.nan])
    for bad in ({}, {**record, "settings": {}}, {**record, "failures": two}, {**record, "lowest": nan}):
        with pytest.raises(ValueError, match=r"the state.* must be"):
            stubborn.load_state_dict(bad)
    with pytest.raises(ValueError, match="settings must be"):
        PriorityScale(memory=5).load_state_dict(before)
    assert scale.state_dict() == before
    assert all(np.array_equal(record[name], value) for name, value in stubborn.state_dict().items())


@pytest.mark.parametrize(
    ("maker", "setting", "value"),
    [
        (PriorityScale, "memory", 0.5),
        (PriorityScale, "memory", math.inf),
        (PriorityScale, "age_half_life", 0),
        (PriorityScale, "age_half_life", math.nan),
        (Stubbornness, "patience", 0),
        (Stubbornness, "patience", 1.5),
        (Stubbornness, "improvement", 1.0),
        (Stubbornness, "improvement", -0.1),
        (Stubbornness, "decay", 1.1),
        (Stubbornness, "decay", math.nan),
    ],
)
def test_a_setting_out_of_range_is_named(maker: Any, setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{setting} must be .*, got {value}"):
        maker(**{setting: value})
