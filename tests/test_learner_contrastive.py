"""InfoNCE between the eyes against its formula in NumPy, and that it teaches a small network to tell pairs apart."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from learner_state import trained
from tiny_learner import TINY as TINY_LEARNER
from tiny_learner import make_pairs, tiny_learner
from tiny_objective import gradient_at_crops, viewed
from torch import Generator, Tensor, nn

from learner.cli.train import COMMAND
from learner.errors import SettingsError
from learner.networks.encoder import EncoderConfig
from learner.objectives.contract import Batch, Objective
from learner.objectives.contrastive import Contrastive, ContrastiveConfig
from learner.report.album import make_album
from learner.views.augment import Augmentation

ENCODER = EncoderConfig(backbone="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=32, depth=2, heads=2)
TINY = ContrastiveConfig(
    crops=3, attention_size=32, teacher_size=32, student_size=16, hidden=32, projection=8, temperature=0.3
)

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def contrastive(seed: int = 0, **changes: Any) -> Contrastive:
    """A tiny objective past its random start: student and teacher differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objective = dataclasses.replace(TINY, **changes).build(ENCODER)
        assert isinstance(objective, Contrastive)
        with torch.no_grad():
            for parameter in objective.parameters():
                if parameter.ndim > 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return objective


def some_pairs(count: int = 6, seed: int = 0) -> Batch:
    coarse = torch.rand(count, 3, 4, 5, generator=seeded(seed))
    left = (nn.functional.interpolate(coarse, (24, 32), mode="bilinear").permute(0, 2, 3, 1) * 255).to(torch.uint8)
    return Batch(left, left.roll(2, dims=2), torch.full((count,), 4 / 3))


@torch.no_grad()
def term_by_term(objective: Contrastive, batch: Batch) -> list[float]:
    """-log of each crop's share of its own pair, one exponential after the other; means over a pair's crops."""
    view = viewed(objective, batch, seeded())
    keys = objective.teacher(view.large[:, 0]).double().numpy()
    losses = []
    for pair, crops in enumerate(view.small):
        shares = []
        for query in objective.student(crops).double().numpy():
            weights = [math.exp(float(query @ key) / objective.config.temperature) for key in keys]
            shares.append(-math.log(weights[pair] / sum(weights)))
        losses.append(sum(shares) / len(shares))
    return losses


@pytest.mark.parametrize("crops", [1, 3])
@pytest.mark.parametrize("temperature", [0.1, 0.3, 1.0])
def test_losses_are_the_formula_of_what_the_networks_put_out(temperature: float, crops: int) -> None:
    objective, batch = contrastive(temperature=temperature, crops=crops), some_pairs()
    outcome = objective(batch, seeded())
    assert np.allclose(outcome.losses.detach(), term_by_term(objective, batch), rtol=1e-4, atol=1e-5)


def test_the_priority_is_the_loss_since_a_one_hot_target_has_no_entropy() -> None:
    outcome = contrastive()(some_pairs(), seeded())
    assert outcome.priority is None
    assert outcome.losses.requires_grad
    assert (outcome.losses > 0).all()


def test_a_pair_alone_has_nothing_to_be_told_from() -> None:
    assert contrastive()(some_pairs(1), seeded()).losses.tolist() == [0]


def test_where_all_keys_are_alike_the_loss_is_that_of_chance() -> None:
    one = some_pairs(1)
    batch = Batch(one.left.expand(8, -1, -1, -1), one.right.expand(8, -1, -1, -1), one.aspect.expand(8))
    objective = contrastive(temperature=1e6)
    assert objective(batch, seeded()).losses.tolist() == pytest.approx([math.log(8)] * 8, abs=1e-4)


def test_the_gauges_are_those_of_the_batch() -> None:
    objective, batch = contrastive(), some_pairs()
    outcome = objective(batch, seeded())
    view = viewed(objective, batch, seeded())
    with torch.no_grad():
        cosines = objective.student(view.small.flatten(0, 1)) @ objective.teacher(view.large[:, 0]).T
    own = [row[index // 3] for index, row in enumerate(cosines)]
    found = [float(row.max()) == float(mine) for row, mine in zip(cosines, own, strict=True)]
    assert float(outcome.gauges["found"]) == pytest.approx(np.mean(found))
    blind = np.log(len(outcome.losses))  # what it costs to answer alike to all
    assert float(outcome.gauges["student_information"]) == pytest.approx(
        1 - float(outcome.ranked_by.mean()) / blind, rel=1e-5
    )
    assert float(outcome.gauges["eye_cosine"]) == pytest.approx(float(torch.stack(own).mean()), abs=1e-5)


@pytest.mark.parametrize("crops", [1, 4])
def test_gradient_reaches_the_pixels_of_every_crop(crops: int) -> None:
    strongest = np.abs(gradient_at_crops(contrastive(crops=crops), some_pairs())).max((1, 2, 3))
    assert len(strongest) == 6 * crops
    assert (strongest > 1e-3 * strongest.max()).all()


def test_gradient_reaches_the_student_and_nothing_reaches_the_teacher() -> None:
    objective = contrastive()
    objective(some_pairs(), seeded()).losses.mean().backward()
    assert [name for name, p in objective.student.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())


def test_after_a_step_the_teacher_follows_the_student() -> None:
    objective = contrastive(teacher_momentum=0.9)
    before = copy.deepcopy(objective.teacher.state_dict())
    objective.after_step()
    for name, present in objective.student.state_dict().items():
        assert torch.allclose(objective.teacher.state_dict()[name], 0.9 * before[name] + 0.1 * present, atol=1e-6)


def losses_of_steps(objective: Objective[Any], steps: int) -> list[float]:
    optimizer, generator, trace = torch.optim.AdamW(objective.trained(), lr=3e-3), seeded(), []
    for step in range(steps):
        losses: Tensor = objective(some_pairs(8, seed=step % 3), generator).losses
        optimizer.zero_grad()
        torch.autograd.backward(losses.mean())
        optimizer.step()
        objective.after_step()
        trace.append(float(losses.detach().mean()))
    return trace


def test_pairs_are_told_apart_better_than_by_chance_after_some_steps() -> None:
    torch.manual_seed(0)
    plain = Augmentation(flip=0, jitter=0, grey=0, blur=0, solarise=0)
    easy = dataclasses.replace(
        TINY, temperature=0.1, teacher_momentum=0.9, teacher_augmentation=plain, student_augmentation=plain
    )
    trace = losses_of_steps(easy.build(ENCODER), 100)
    assert np.mean(trace[:3]) > 0.9 * math.log(8)
    assert np.mean(trace[-20:]) < 0.7 * math.log(8)


def test_the_whole_state_travels_in_its_state_dict() -> None:
    first, second = contrastive(seed=1), contrastive(seed=2)
    second.load_state_dict(first.state_dict())
    assert losses_of_steps(second, 2) == losses_of_steps(first, 2)


def test_in_bfloat16_the_cosines_are_not_rounded() -> None:
    objective, batch = contrastive(temperature=0.05), some_pairs()
    with torch.autocast("cpu", torch.bfloat16):
        outcome = objective(batch, seeded())
        expected = term_by_term(objective, batch)
    assert outcome.losses.dtype == torch.float32
    assert np.allclose(outcome.losses.detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": math.nan}, "temperature must be finite and above 0"),
        ({"projection": 0}, "projection must be at least 1"),
        ({"crops": 0}, "crops must be at least 1"),
        ({"teacher_momentum": 1.0}, "teacher_momentum must be at least 0 and below 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=rf"^objective: .*{reason}.*$"):
        ContrastiveConfig(**wrong)


def test_a_learner_trains_on_it_draws_its_pictures_and_goes_on_from_its_state() -> None:
    config = dataclasses.replace(TINY_LEARNER, objective=TINY)
    learner, again = tiny_learner(config), tiny_learner(config)
    pairs = make_pairs(24)
    trained(learner, pairs[:16])
    again.load_state_dict(copy.deepcopy(learner.state_dict()), pairs[:16])
    reports = [trained(one, pairs[16:]) for one in (learner, again)]
    assert [report.loss for report in reports[0]] == [report.loss for report in reports[1]]
    assert len(reports[0]) > 0
    assert make_album(learner)["student_views"].shape[1] == 3


def test_its_settings_are_flags_of_the_preset() -> None:
    settings = COMMAND.parse(
        ["--preset", "contrastive", "--objective.temperature", "0.5", "--objective.crops", "2"]
    ).learner
    assert isinstance(settings.objective, ContrastiveConfig)
    assert (settings.objective.temperature, settings.objective.crops, settings.objective.teacher_size) == (0.5, 2, 32)


def test_it_satisfies_the_contract_that_the_loop_knows() -> None:
    objective: Objective = TINY.build(ENCODER)
    assert {"student", "teacher"} == set(objective.encoders())
