"""The seed's objective as a thing with a state: what it keeps, what each pair's loss depends on, and what it refuses."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tiny_objective import ENCODER, TINY, agent, seeded, some_pairs, viewed

from learner.errors import SettingsError
from learner.objectives.babyagent import BabyAgent, BabyAgentConfig
from learner.objectives.contract import Batch, Kit, Objective
from learner.parts.losses import sinkhorn

pytestmark = pytest.mark.usefixtures("one_thread")


# Sinkhorn


def test_after_many_rounds_every_prototype_holds_the_same_mass() -> None:
    scores = torch.randn(32, 8, generator=seeded())
    assert torch.allclose(sinkhorn(scores, rounds=200).sum(0), torch.full((8,), 4.0), atol=1e-3)
    assert not torch.allclose(sinkhorn(scores, rounds=1).sum(0), torch.full((8,), 4.0), atol=1e-2)


@pytest.mark.parametrize("temperature", [0.01, 1e-4])
def test_sinkhorn_does_not_overflow_at_a_sharp_temperature(temperature: float) -> None:
    found = sinkhorn((torch.rand(16, 256, generator=seeded()) * 2 - 1) / temperature)
    assert found.isfinite().all()
    assert torch.allclose(found.sum(1), torch.ones(16), atol=1e-4)


def test_sinkhorn_over_equal_pairs_says_nothing() -> None:
    """What is common to a batch is divided out: equal pairs share all prototypes evenly, however sharp the temperature."""
    scores = torch.randn(1, 64, generator=seeded()).expand(16, -1) / 0.03
    assert torch.allclose(sinkhorn(scores), torch.full((16, 64), 1 / 64), atol=1e-5)


# State


def test_the_teacher_begins_as_the_student() -> None:
    objective = BabyAgent(TINY, Kit(ENCODER, TINY))
    for name, tensor in objective.student.state_dict().items():
        assert torch.equal(objective.teacher.state_dict()[name], tensor)


@pytest.mark.parametrize("centring", ["ema", "sinkhorn"])
def test_a_batch_whose_step_is_refused_leaves_no_trace(centring: str) -> None:
    objective = agent(centring=centring)
    before = copy.deepcopy(objective.state_dict())
    first = objective(some_pairs(), seeded())
    first.losses.mean().backward()
    viewed(objective, some_pairs(seed=1), seeded(5))
    assert all(torch.equal(tensor, before[name]) for name, tensor in objective.state_dict().items())
    assert torch.equal(objective(some_pairs(), seeded()).losses, first.losses)


def losses_of_steps(objective: BabyAgent, steps: int) -> list[float]:
    """Mean losses of so many steps of training on one small stream, as the loop takes them."""
    optimizer, generator, trace = torch.optim.AdamW(objective.trained(), lr=1e-3), seeded(), []
    for step in range(steps):
        loss = objective(some_pairs(8, seed=step % 3), generator).losses.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step()
        trace.append(float(loss.detach()))
    return trace


def test_the_whole_state_travels_in_its_state_dict() -> None:
    first, second = agent(seed=1), agent(seed=2)
    second.load_state_dict(first.state_dict())
    assert losses_of_steps(second, 2) == losses_of_steps(first, 2)


def test_the_same_generator_gives_the_same_losses_and_another_one_others() -> None:
    objective = agent()
    first, again, other = (objective(some_pairs(), seeded(seed)).losses for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def with_another_last_pair(batch: Batch) -> Batch:
    strange = some_pairs(1, seed=99)
    return Batch(torch.cat([batch.left[:-1], strange.left]), torch.cat([batch.right[:-1], strange.right]), batch.aspect)


def test_under_ema_centring_the_loss_of_a_pair_depends_on_that_pair_only() -> None:
    objective, batch = agent(centring="ema"), some_pairs(5)
    one, other = (objective(pairs, seeded()).losses.detach() for pairs in (batch, with_another_last_pair(batch)))
    assert torch.allclose(one[:-1], other[:-1], rtol=1e-5)
    assert abs(float(one[-1] - other[-1])) > 1e-3


def test_under_sinkhorn_a_pair_competes_with_its_batch() -> None:
    objective, batch = agent(centring="sinkhorn"), some_pairs(5)
    one, other = (objective(pairs, seeded()).losses.detach() for pairs in (batch, with_another_last_pair(batch)))
    assert ((one - other).abs() > 1e-4).all()


# Settings


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"crops": 0, "repulsion": 0.0}, "crops must be at least 1"),
        ({"repelled_by": "strangers"}, "repelled_by must be crops or pairs"),
        ({"repulsion": -0.1}, "repulsion must be at least 0"),
        ({"student_temperature": 0.0}, "temperature must be above 0"),
        ({"teacher_temperature": -0.02}, "temperature must be above 0"),
        ({"teacher_temperature": math.nan}, "temperature must be finite and above 0"),
        ({"repulsion_temperature": 0.0}, "temperature must be above 0"),
        ({"student_scale": (0.8, 0.4)}, "0 < low <= high <= 1"),
        ({"student_scale": (0.4, 1.2)}, "0 < low <= high <= 1"),
        ({"teacher_momentum": 1.0}, "must be at least 0 and below 1"),
        ({"centre_momentum": -0.1}, "must be at least 0 and below 1"),
        ({"prototypes": 1}, "prototypes must be at least 2"),
        ({"smallest_window": 0.0}, "smallest_window must be above 0 and at most 1"),
        ({"window_sigmas": 0.0}, "window_sigmas must be above 0"),
        ({"student_size": 0}, "student_size must be at least 1"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"centring": "none"}, "centring must be ema or sinkhorn"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=rf"^objective: .*{reason}.*$"):
        BabyAgentConfig(**wrong)


def test_one_crop_that_others_of_its_pair_should_repel_is_refused_in_one_line() -> None:
    with pytest.raises(
        SettingsError,
        match=r"^objective: crops must be at least 2 to repel each other, got 1: repelled_by pairs needs one$",
    ):
        agent(crops=1)


@pytest.mark.parametrize("name", ["attention_size", "teacher_size", "student_size"])
def test_a_size_that_is_no_multiple_of_the_patch_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"^objective: {name} 20 must be a multiple of the patch size 8$"):
        agent(**{name: 20})


def test_the_seeds_objective_satisfies_the_contract_that_the_loop_knows() -> None:
    """mypy checks the assignment; the loop asks for nothing else."""
    objective: Objective = TINY.build(ENCODER)
    assert {"student", "teacher"} == set(objective.encoders())
