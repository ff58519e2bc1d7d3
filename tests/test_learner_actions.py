"""Objectives that learn from actions: the moves of a batch, the formulas in NumPy, and what is not known."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from every_objective import CPU, see, seeded, small, some_pairs, total, trainer
from numpy.typing import NDArray
from torch import Tensor

from learner.memory.measured import Measured
from learner.objectives.contract import Batch, Outcome
from learner.objectives.control.moves import WIDTH, moves, symlog
from learner.objectives.sums import sum_of
from learner.objectives.table import OBJECTIVES
from learner.trainer import Trainer
from stream.signals.signal import MAX_WIDTH, Signal

Array = NDArray[np.float64]
pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("dynamics", "deepmdp", "dbc")
CLIPS = (0, 0, 0, 1, 2, 2)
MOVES = [(0, 1), (1, 2), (4, 5)]


def moving(clips: tuple[int, ...] = CLIPS, seed: int = 0) -> Batch:
    """Pairs of clips at uneven times, with an action of three numbers and a reward for each."""
    count, generator = len(clips), seeded(seed)
    return dataclasses.replace(
        some_pairs(count, seed),
        clips=torch.tensor(clips),
        epochs=torch.tensor(clips),
        times_s=torch.rand(count, generator=generator).cumsum(0).double(),
        signals={
            "action": 3 * torch.randn(count, 3, generator=generator),
            "reward": torch.rand(count, 1, generator=generator),
        },
    )


def without(batch: Batch, name: str, rows: list[int]) -> Batch:
    """The same batch, in which these pairs lack a signal."""
    values = batch.signals[name].clone()
    values[rows] = torch.nan
    return dataclasses.replace(batch, signals={**batch.signals, name: values})


def numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def squashed(value: float) -> float:
    return math.copysign(math.log(1 + abs(value)), value)


def told(batch: Batch, before: int, after: int) -> list[float]:
    """What a model sees of a move, as the module's formula says."""
    assert batch.times_s is not None
    action = [squashed(value) for value in batch.signals["action"][after].tolist()]
    return [*action, *[0.0] * (MAX_WIDTH - 3), squashed(float(batch.times_s[after] - batch.times_s[before]))]


def outcome_of(name: str, batch: Batch) -> tuple[Any, Tensor, Outcome]:
    """An objective, the pictures that it sees, and what it makes of them."""
    made = trainer(name)
    views = made.objective.views(batch, seeded())
    see(made.objective, views)
    return made.objective, views.large[:, 0], made.outcome(batch, seeded())


def spread_by_hand(terms: list[float], count: int) -> Array:
    """Each move gives both of its pairs an equal part, scaled so that the mean over pairs is that over moves."""
    losses = np.zeros(count)
    for (before, after), term in zip(MOVES, terms, strict=True):
        losses[[before, after]] += term / 2 * count / len(MOVES)
    return losses


def test_a_move_has_the_action_of_its_later_pair_and_the_seconds_between() -> None:
    batch = moving()
    found = moves(batch, "action", "reward")
    assert found.rows.tolist() == [list(move) for move in MOVES]
    assert found.action.shape == (3, WIDTH)
    assert found.action.dtype == found.reward.dtype == torch.float32
    for row, (before, after) in enumerate(MOVES):
        assert found.action[row].tolist() == pytest.approx(told(batch, before, after), rel=1e-5)
        assert float(found.reward[row]) == pytest.approx(squashed(float(batch.signals["reward"][after])), rel=1e-5)


def test_symlog_keeps_small_numbers_and_signs_and_makes_the_largest_float_small() -> None:
    values = torch.tensor([0.0, 1e-4, -1e-4, 1e30, -1e30])
    assert symlog(values).tolist() == pytest.approx([0, 1e-4, -1e-4, 69.08, -69.08], rel=1e-3)


def test_moves_whose_signals_are_not_known_are_left_out_and_the_others_stay() -> None:
    batch = without(without(moving(), "action", [1]), "reward", [5])
    assert moves(batch, "action").rows.tolist() == [[1, 2], [4, 5]]
    assert moves(batch, "action", "reward").rows.tolist() == [[1, 2]]
    assert moves(dataclasses.replace(batch, signals={}), "action").rows.tolist() == []


def test_a_signal_without_rows_is_missing_and_decides_no_width() -> None:
    measured = Measured(3, ("action",))
    measured.put(0, {"action": Signal([], [])})
    measured.put(1, {"action": Signal([[1.0, 2.0], [3.0, 6.0]], [1, 2])})
    measured.put(2, {"action": Signal(np.empty((0, 2)), [])})
    values = measured.of(torch.arange(3))["action"]
    assert values[1].tolist() == [2, 4]
    assert values[[0, 2]].isnan().all()
    assert measured.changed == 0


def test_dynamics_is_the_squared_distance_of_unit_vectors() -> None:
    batch = moving()
    objective, pictures, outcome = outcome_of("dynamics", batch)
    present, keys = numpy(objective.student(pictures)), numpy(objective.teacher(pictures))
    terms = []
    for before, after in MOVES:
        seen = torch.tensor([*present[before], *told(batch, before, after)]).float()
        guess = numpy(objective.model.layers(seen[None])[0])
        terms.append(float(np.square(guess / np.linalg.norm(guess) - keys[after]).sum()))
    assert numpy(outcome.losses) == pytest.approx(spread_by_hand(terms, 6), rel=1e-4)
    assert float(outcome.losses.detach().mean()) == pytest.approx(np.mean(terms), rel=1e-4)
    assert float(outcome.gauges["foreseen"]) == pytest.approx(1 - np.mean(terms) / 2, rel=1e-3)
    still = np.mean([keys[before] @ keys[after] for before, after in MOVES])
    assert float(outcome.gauges["unmoved"]) == pytest.approx(still, rel=1e-4)


def test_deepmdp_is_the_error_of_the_reward_and_of_the_next_embedding() -> None:
    batch = moving()
    objective, pictures, outcome = outcome_of("deepmdp", batch)
    z, terms = numpy(objective.student(pictures)), []
    assert z.mean(1) == pytest.approx(np.zeros(6), abs=0.5)
    for before, after in MOVES:
        seen = torch.tensor([*z[before], *told(batch, before, after)]).float()[None]
        reward, future = numpy(objective.reward.layers(seen))[0, 0], numpy(objective.transition.layers(seen))[0]
        terms.append(
            abs(reward - squashed(float(batch.signals["reward"][after]))) + float(np.linalg.norm(future - z[after]))
        )
    assert numpy(outcome.losses) == pytest.approx(spread_by_hand(terms, 6), rel=1e-4)


def test_dbc_makes_pairs_as_far_apart_as_what_will_come_of_them() -> None:
    batch = moving()
    objective, pictures, outcome = outcome_of("dbc", batch)
    z, width = numpy(objective.student(pictures)), objective.config.embedding
    seen = torch.tensor([[*z[before], *told(batch, before, after)] for before, after in MOVES]).float()
    raw = numpy(objective.future.model.layers(seen))
    mean, deviation = raw[:, :width], 1e-4 + (10 - 1e-4) / (1 + np.exp(-raw[:, width:]))
    guessed = numpy(objective.future.reward(torch.from_numpy(mean).float()))[:, 0]
    rewards = [squashed(float(batch.signals["reward"][after])) for _, after in MOVES]
    terms, ranked = [], []
    for i, (before, after) in enumerate(MOVES):
        squares = []
        for j, (other, _) in enumerate(MOVES):
            if j != i:
                coming = ((mean[i] - mean[j]) ** 2 + (deviation[i] - deviation[j]) ** 2).sum() / width
                apart = np.abs(z[before] - z[other]).sum() / width
                squares.append((apart - abs(rewards[i] - rewards[j]) - 0.99 * math.sqrt(coming)) ** 2)
        unlikely = ((mean[i] - z[after]) ** 2 / (2 * deviation[i] ** 2) + np.log(deviation[i])).mean()
        ranked.append(0.5 * float(np.mean(squares)) + float((guessed[i] - rewards[i]) ** 2))
        terms.append(ranked[-1] + unlikely)
    assert numpy(outcome.losses) == pytest.approx(spread_by_hand(terms, 6), rel=1e-3)
    assert numpy(outcome.ranked_by) == pytest.approx(spread_by_hand(ranked, 6), rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_a_move_has_losses_of_zero_and_the_step_is_made(name: str) -> None:
    made = trainer(name)
    for batch in (
        dataclasses.replace(moving(), signals={}),
        moving((0, 1, 2, 3, 4, 5)),
        without(moving(), "action", [1, 2, 5]),
    ):
        outcome = made.outcome(batch, seeded())
        assert outcome.losses.tolist() == [0.0] * 6
        assert float(outcome.gauges["usable"]) == 0
        torch.autograd.backward(total(outcome))
        assert not made.step(batch).is_refused


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_without_an_action_costs_its_own_move_only(name: str) -> None:
    whole, part = moving((0, 0, 1, 1, 2, 2)), moving((0, 0, 1, 1, 2, 2))
    part = without(part, "action", [3])
    one, other = outcome_of(name, whole)[2], outcome_of(name, part)[2]
    assert other.losses[2:4].tolist() == [0, 0]
    assert other.losses.isfinite().all()
    if name != "dbc":  # which compares moves with each other
        assert (other.losses[[0, 1, 4, 5]] / 1.5).tolist() == pytest.approx(one.losses[[0, 1, 4, 5]].tolist(), rel=1e-4)


def test_in_dbc_a_pair_that_is_not_finite_spoils_the_moves_of_its_own_clip_alone() -> None:
    batch = moving((0, 0, 1, 1, 2, 2))
    made = trainer("dbc")
    views = made.objective.views(batch, seeded())
    views.large[2] = torch.nan
    see(made.objective, views)
    outcome = made.outcome(batch, seeded())
    assert outcome.losses.isfinite().tolist() == [True, True, False, False, True, True]
    assert made.step(batch).is_refused


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1, MAX_WIDTH])
def test_a_robot_may_have_an_action_of_any_width_and_size(name: str, width: int) -> None:
    made, batch = Trainer(small(name), CPU), moving()
    signals = {**batch.signals, "action": torch.full((6, width), 1e30), "reward": torch.full((6, 1), -1e30)}
    assert not made.step(dataclasses.replace(batch, signals=signals)).is_refused


def test_an_action_that_decides_what_is_seen_is_used() -> None:
    """Clips in which the action says which of two pictures comes next: told of it, the model foresees more."""
    count = 24
    pairs, rows = some_pairs(2), torch.arange(count)
    which = torch.randint(2, (count,), generator=seeded(3))
    batch = Batch(
        pairs.left[which],
        pairs.left[which],
        torch.full((count,), 4 / 3),
        clips=rows // 4,
        times_s=(rows % 4).double(),
        signals={"action": 2.0 * which[:, None] - 1},
    )
    made = Trainer(small("dynamics"), CPU)
    for _ in range(60):
        gauges = made.step(batch).report.gauges
    assert 1 - gauges["foreseen"] < (1 - gauges["foreseen_idle"]) / 10


def test_a_sum_needs_the_longer_clip_and_the_signals_of_both() -> None:
    kind = sum_of(sum_of(OBJECTIVES["simclr"], OBJECTIVES["dynamics"]), OBJECTIVES["dbc"]).settings
    assert (kind.clip, kind.signals) == (4, ("action", "reward"))


def test_all_pairs_of_a_clip_show_the_same_eye_and_know_where_it_began() -> None:
    batch = moving()
    assert batch.starts().tolist() == [0, 0, 0, 3, 4, 4]
    assert dataclasses.replace(batch, clips=None).starts().tolist() == list(range(6))
    white = dataclasses.replace(batch, left=torch.zeros_like(batch.left), right=torch.full_like(batch.right, 255))
    objective = trainer("deepmdp").objective
    seen = torch.stack([objective.views(white, seeded(seed)).large.mean((1, 2, 3, 4)) for seed in range(20)])
    assert torch.equal(seen[:, 0], seen[:, 1])
    assert torch.equal(seen[:, 4], seen[:, 5])
    assert len(torch.unique(seen[:, [0, 3, 4]], dim=0)) > 3
