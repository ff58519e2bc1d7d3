"""The objective against section 6 of the design, item by item: `seed_formulas` says in NumPy what each number must be.

Views are drawn once by `look` and again, from an equal generator, by the call that trains: the two are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from seed_formulas import (
    AdamW,
    centred_and_sharpened,
    clipped,
    cross_entropy,
    cut,
    entropy,
    gaussian,
    head,
    moved,
    repelled,
    repelled_by,
    shrunk,
    softmax,
    swav,
    window,
)
from tiny_learner import TINY as LEARNER
from tiny_learner import make_pairs, tiny_learner
from tiny_objective import PLAIN, TINY, agent, gradient_at_crops, numpy, seeded, some_pairs, viewed
from torch import Tensor, nn

from learner.loop import Learner
from learner.objectives.babyagent import BabyAgent
from learner.objectives.contract import Batch, Outcome
from learner.parts.losses import sinkhorn
from learner.parts.repulsion import pairwise_cosines, repulsion, repulsion_from_others
from learner.schedule import learning_rate
from learner.views.crops import to_rgb
from learner.views.guided import GuidedViews

Array = NDArray[np.float64]

pytestmark = pytest.mark.usefixtures("one_thread")


# 1. The teacher sees the whole left image; one head, a Gaussian


@pytest.mark.parametrize("canvas", [(24, 32), (60, 80), (40, 20)])
def test_the_teacher_looks_at_the_whole_left_image_shrunk_without_aliasing(canvas: tuple[int, int]) -> None:
    objective, seen = agent(), list[Tensor]()
    looks = objective.teacher.encoder.attention

    def attention(rgb: Tensor) -> Tensor:
        seen.append(rgb)
        return looks(rgb)

    objective.teacher.encoder.attention = attention  # type: ignore[method-assign]
    left, right = torch.randint(0, 256, (2, 3, *canvas, 3), generator=seeded(), dtype=torch.uint8)
    viewed(objective, Batch(left, right, torch.ones(3)), seeded())
    assert seen[0].shape == (3, 3, 32, 32)
    for found, image in zip(numpy(seen[0]), numpy(left), strict=True):
        expected = shrunk(image[..., ::-1].transpose(2, 0, 1) / 255, 32)
        assert np.allclose(found, expected, atol=1.01 / 255), "each of two passes rounds to whole numbers"
        assert abs(float((found - expected).mean())) < 0.3 / 255


def test_the_gaussian_is_fitted_to_the_map_of_one_head() -> None:
    view = viewed(agent(), some_pairs(8), seeded())
    assert set(view.head.tolist()) == {0, 1}
    for found, maps, number in zip(numpy(view.gauss), numpy(view.attention), view.head.tolist(), strict=True):
        assert np.allclose(found, gaussian(maps[number]), atol=1e-5)


# 2. The focused crop of the left image, and small crops at the same location of the right one


@pytest.mark.parametrize("aspect", [4 / 3, 1242 / 376, 0.6])
def test_the_crops_are_cut_where_the_gaussian_says_out_of_either_eye(aspect: float) -> None:
    objective = agent(teacher_augmentation=PLAIN, student_augmentation=PLAIN, window_sigmas=0.6)
    batch = some_pairs()
    batch = Batch(batch.left, batch.right, torch.full((4,), aspect))
    view, config = viewed(objective, batch, seeded()), objective.config
    left, right = numpy(to_rgb(batch.left.permute(0, 3, 1, 2))), numpy(to_rgb(batch.right.permute(0, 3, 1, 2)))
    for pair in range(4):
        outer = window(numpy(view.gauss[pair]), aspect, sigmas=0.6, smallest=config.smallest_window)
        assert np.allclose(view.window[pair], outer, atol=1e-5)
        assert np.allclose(view.large[:, 0][pair], cut(left[pair], numpy(view.window[pair]), 32), atol=1e-4)
        for crop, inner in zip(numpy(view.small[pair]), numpy(view.crops[pair]), strict=True):
            assert np.allclose(crop, cut(right[pair], inner, 16), atol=1e-4)
            assert (np.abs(inner[:2] - outer[:2]) + inner[2:] <= outer[2:] + 1e-5).all()
            share = inner[2:] / outer[2:]
            assert config.student_scale[0] - 1e-5 <= share[0] == pytest.approx(share[1], rel=1e-4)
            assert share[0] <= config.student_scale[1] + 1e-5


# 3. and 4. Two distributions, their cross-entropy, the repulsion; KL


@dataclass
class Rendering:
    """What the formulas make of a batch: [B], [B], [B, K] and [B, N, N]."""

    losses: Array
    kl: Array
    past: Array
    cosines: Array


@torch.no_grad()
def rendering(objective: BabyAgent, view: GuidedViews) -> Rendering:
    """From what the networks put out for the views."""
    config, crops = objective.config, view.small.shape[1]
    past_logits = numpy(objective.teacher(view.large[:, 0])[1])
    everyones = np.stack([numpy(objective.student(views)[0]) for views in view.small])
    if config.centring == "sinkhorn":
        past = swav(past_logits / config.teacher_temperature)
    else:
        past = centred_and_sharpened(past_logits, numpy(objective.centre.mean), config.teacher_temperature)
    losses, kl, cosines = [], [], []
    for pair, (target, views) in enumerate(zip(past, view.small, strict=True)):
        projection, logits = map(numpy, objective.student(views))
        present = softmax(logits / config.student_temperature)
        terms = [cross_entropy(target, each) for each in present]
        repelling = 0.0
        if config.repulsion and config.repelled_by == "crops":
            repelling = repelled(projection, config.repulsion_temperature)
        elif config.repulsion:
            repelling = repelled_by(
                projection, np.concatenate(np.delete(everyones, pair, axis=0)), config.repulsion_temperature
            )
        losses.append(sum(terms) + config.repulsion * repelling)
        kl.append(sum(terms) / crops - entropy(target))
        cosines.append(projection @ projection.T)
    return Rendering(np.array(losses), np.array(kl), past, np.array(cosines))


def test_the_head_is_dinos() -> None:
    for network in (agent().student, agent().teacher):
        features = torch.randn(5, 32, generator=seeded())
        projection, logits = network.projector(features)
        linear = [(numpy(m.weight), numpy(m.bias)) for m in network.projector.mlp if isinstance(m, nn.Linear)]
        expected = head(numpy(features), linear, numpy(network.projector.prototypes))
        assert len(linear) == 3
        assert np.allclose(numpy(projection), expected[0], atol=1e-5)
        assert np.allclose(numpy(logits), expected[1], atol=1e-5)


@pytest.mark.parametrize("crops", [2, 3, 5])
@pytest.mark.parametrize("weight", [0.0, 0.1])
@pytest.mark.parametrize("repellers", ["crops", "pairs"])
@pytest.mark.parametrize("centring", ["ema", "sinkhorn"])
def test_losses_and_priorities_are_the_formulas_of_what_the_networks_put_out(
    centring: str, repellers: str, weight: float, crops: int
) -> None:
    objective, batch = agent(centring=centring, repulsion=weight, repelled_by=repellers, crops=crops), some_pairs()
    outcome = objective(batch, seeded())
    expected = rendering(objective, viewed(objective, batch, seeded()))
    assert outcome.losses.shape == outcome.priority.shape == (4,)
    assert np.allclose(outcome.losses.detach(), expected.losses, rtol=1e-5, atol=1e-5)
    assert np.allclose(outcome.priority, expected.kl, rtol=1e-4, atol=1e-5)


def test_one_crop_is_enough_without_repulsion() -> None:
    objective = agent(crops=1, repulsion=0.0)
    outcome = objective(some_pairs(), seeded())
    expected = rendering(objective, viewed(objective, some_pairs(), seeded()))
    assert np.allclose(outcome.losses.detach(), expected.losses, rtol=1e-5)
    assert float(outcome.gauges["crop_cosine"]) == pytest.approx(0, abs=1e-6)


def test_the_priority_is_what_the_student_can_still_lower() -> None:
    """KL = cross-entropy - entropy of the teacher, not below 0, without gradient."""
    objective, batch = agent(repulsion=0.0), some_pairs(8)
    outcome = objective(batch, seeded())
    past = rendering(objective, viewed(objective, batch, seeded())).past
    irreducible = [entropy(row) for row in past]
    assert np.allclose(outcome.priority, numpy(outcome.losses) / 3 - irreducible, atol=1e-5)
    assert (outcome.priority >= 0).all()
    assert not outcome.priority.requires_grad


def test_the_gauges_are_those_of_the_batch() -> None:
    objective, batch = agent(), some_pairs(8)
    gauges = {name: float(value) for name, value in objective(batch, seeded()).gauges.items()}
    expected = rendering(objective, viewed(objective, batch, seeded()))
    assert gauges["kl"] == pytest.approx(expected.kl.mean(), rel=1e-4)
    assert gauges["teacher_entropy"] == pytest.approx(np.mean([entropy(row) for row in expected.past]), rel=1e-4)
    assert gauges["prototypes_in_use"] == pytest.approx(np.exp(entropy(expected.past.mean(0))), rel=1e-4)
    assert gauges["crop_cosine"] == pytest.approx(expected.cosines[:, ~np.eye(3, dtype=bool)].mean(), rel=1e-4)
    known = entropy(expected.past.mean(0)) - np.mean([entropy(row) for row in expected.past])
    most = np.log(min(expected.past.shape))
    assert gauges["teacher_information"] == pytest.approx(known / most, rel=1e-4)
    assert gauges["student_information"] == pytest.approx((known - expected.kl.mean()) / most, rel=1e-4)


@given(st.integers(2, 6), st.integers(0, 2**31), st.sampled_from([0.05, 0.1, 1.0]))
def test_repulsion_is_its_double_sum(crops: int, seed: int, temperature: float) -> None:
    projection = nn.functional.normalize(torch.randn(3, crops, 8, generator=seeded(seed)), dim=-1)
    found = repulsion(pairwise_cosines(projection), temperature)
    assert np.allclose(found, [repelled(row, temperature) for row in numpy(projection)], rtol=1e-4, atol=1e-3)


@given(st.integers(1, 4), st.integers(2, 6), st.integers(0, 2**31), st.sampled_from([0.05, 0.1, 1.0]))
def test_repulsion_from_others_is_its_double_sum(crops: int, pairs: int, seed: int, temperature: float) -> None:
    everyones = nn.functional.normalize(torch.randn(pairs, crops, 8, generator=seeded(seed)), dim=-1)
    own = torch.tensor([pairs - 1, 0])  # as a process that has these two of them
    found = repulsion_from_others(everyones[own], everyones, own, temperature)
    expected = [
        repelled_by(numpy(everyones[pair]), np.concatenate(np.delete(numpy(everyones), pair, axis=0)), temperature)
        for pair in own.tolist()
    ]
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_a_pair_that_is_not_finite_repels_nobody() -> None:
    everyones = nn.functional.normalize(torch.randn(4, 2, 8, generator=seeded()), dim=-1)
    own = torch.arange(4)
    spoiled = everyones.clone()
    spoiled[2] = torch.nan
    found = repulsion_from_others(spoiled, spoiled, own, 0.1)
    assert found.isnan().tolist() == [False, False, True, False]
    sound = torch.tensor([0, 1, 3])
    without = repulsion_from_others(everyones[sound], everyones[sound], torch.arange(3), 0.1)
    assert torch.allclose(found[sound], without)


def test_one_crop_can_be_repelled_by_other_pairs() -> None:
    objective = agent(crops=1, repulsion=0.3, repelled_by="pairs")
    outcome = objective(some_pairs(), seeded())
    expected = rendering(objective, viewed(objective, some_pairs(), seeded()))
    assert np.allclose(outcome.losses.detach(), expected.losses, rtol=1e-5)


def test_repulsion_is_least_where_the_crops_lie_opposite() -> None:
    apart, equal = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])[:, None]
    assert float(repulsion(pairwise_cosines(apart), 0.05)) == pytest.approx(-40)
    assert float(repulsion(pairwise_cosines(equal), 0.05)) == pytest.approx(40)


@given(st.integers(1, 12), st.integers(2, 12), st.integers(0, 2**31), st.sampled_from([0.05, 0.3, 1.0]))
def test_sinkhorn_is_swavs_and_its_rows_sum_to_one(pairs: int, prototypes: int, seed: int, temperature: float) -> None:
    scores = (torch.rand(pairs, prototypes, generator=seeded(seed)) * 2 - 1) / temperature
    found = sinkhorn(scores)
    assert np.allclose(found, swav(numpy(scores)), atol=1e-4)
    assert torch.allclose(found.sum(1), torch.ones(pairs), atol=1e-5)


# The gradient


@pytest.mark.parametrize(("crops", "weight"), [(1, 0.0), (2, 0.0), (5, 0.0), (5, 0.1)])
@pytest.mark.parametrize("centring", ["ema", "sinkhorn"])
def test_gradient_reaches_the_pixels_of_every_crop(centring: str, crops: int, weight: float) -> None:
    """A public multi-crop loss leaves the first crop out where there is one teacher view, and fails with a single crop."""
    objective = agent(centring=centring, crops=crops, repulsion=weight)
    strongest = np.abs(gradient_at_crops(objective, some_pairs())).max((1, 2, 3))
    assert len(strongest) == 4 * crops
    assert (strongest > 1e-3 * strongest.max()).all()


def test_the_first_terms_gradient_is_the_difference_of_the_two_distributions() -> None:
    """d H(P_p, softmax(h / tau_m)) / d h = (P_m - P_p) / tau_m: for every crop, the same target."""
    objective, batch, put_out = agent(repulsion=0.0), some_pairs(), list[Tensor]()
    hook = objective.student.projector.register_forward_hook(lambda _head, _inputs, outputs: put_out.append(outputs[1]))
    loss = objective(batch, seeded()).losses.sum()
    hook.remove()
    found = np.concatenate([numpy(gradient) for gradient in torch.autograd.grad(loss, put_out)])
    past = rendering(objective, viewed(objective, batch, seeded())).past
    temperature = objective.config.student_temperature
    present = softmax(np.concatenate([numpy(logits) for logits in put_out]) / temperature)
    expected = (present - past[:, None]) / temperature
    assert np.allclose(found, expected, atol=1e-4)


def test_the_repulsions_gradient_is_the_slope_of_its_double_sum() -> None:
    crops = torch.randn(1, 4, 6, generator=seeded(), dtype=torch.float64, requires_grad=True)
    term = repulsion(pairwise_cosines(nn.functional.normalize(crops, dim=-1)), 0.3)
    (gradient,) = torch.autograd.grad(term.sum(), crops)
    small, where = 1e-6, numpy(crops[0])
    for index in np.ndindex(4, 6):
        nudge = np.zeros((4, 6))
        nudge[index] = small
        slope = (repelled(where + nudge, 0.3) - repelled(where - nudge, 0.3)) / (2 * small)
        assert float(gradient[0][index]) == pytest.approx(slope, abs=1e-6)


def test_the_gradient_of_repulsion_from_others_takes_them_as_they_stand() -> None:
    objective = agent(repulsion=1e4, repelled_by="pairs", repulsion_temperature=0.3)
    put_out = list[Tensor]()
    hook = objective.student.projector.register_forward_hook(lambda _head, _inputs, outputs: put_out.append(outputs[0]))
    losses = objective(some_pairs(), seeded()).losses
    hook.remove()
    (gradient,) = torch.autograd.grad(losses[0], put_out)
    assert (gradient[0].abs().amax(-1) > 0).all()
    assert (gradient[1:] == 0).all()


def test_the_repulsion_pushes_the_crops_of_a_pair_apart() -> None:
    """So heavy that it alone counts: after a step of the student against its gradient the crops are less alike."""
    objective = agent(repulsion=1e3)
    before = objective(some_pairs(8), seeded())
    gradient = torch.autograd.grad(before.losses.mean() / 1e3, list(objective.trained()))
    with torch.no_grad():
        for parameter, slope in zip(objective.trained(), gradient, strict=True):
            parameter.sub_(slope, alpha=1e-3)
    after = objective(some_pairs(8), seeded())
    assert after.gauges["crop_cosine"] < before.gauges["crop_cosine"] - 1e-3
    assert (after.losses < before.losses).sum() >= 7


@pytest.mark.parametrize("centring", ["ema", "sinkhorn"])
def test_gradient_reaches_the_whole_student_and_neither_teacher_centre_nor_target(centring: str) -> None:
    """Also where the teacher and the centre would take one: it is the objective that stops it."""
    objective = agent(centring=centring)
    objective.teacher.requires_grad_(True)
    objective.centre.mean.requires_grad_(True)
    targets: list[Tensor] = []
    target = objective.centre.targets
    objective.centre.targets = lambda logits: targets.append(target(logits)) or targets[-1]  # type: ignore[method-assign,func-returns-value]
    outcome = objective(some_pairs(), seeded())
    outcome.losses.mean().backward()
    assert [name for name, p in objective.teacher.named_parameters() if p.grad is not None] == []
    assert objective.centre.mean.grad is None
    assert [tensor.requires_grad for tensor in targets] == [False]
    assert [name for name, p in objective.student.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_only_the_student_is_trained() -> None:
    objective = agent()
    objective(some_pairs(), seeded()).losses.mean().backward()
    assert not any(parameter.requires_grad for parameter in objective.teacher.parameters())
    assert set(map(id, objective.trained())) == set(map(id, objective.student.parameters()))
    assert objective.encoders() == {"student": objective.student.encoder, "teacher": objective.teacher.encoder}


def test_only_the_bias_of_the_keys_gets_no_gradient() -> None:
    """It adds the same to all scores of a query, which the softmax does not see: rounding is all that is left."""
    objective = agent()
    objective(some_pairs(), seeded()).losses.mean().backward()
    for block in objective.student.encoder.backbone.blocks:
        query, key, value = block.attn.qkv.bias.grad.abs().view(3, 32).amax(1).tolist()
        assert key < 1e-4 * min(query, value)


# 5. AdamW on the student; the teacher and the centre follow


class Beside:
    """The update rendered beside a learner: what its gradient, weights and the teacher's logits were."""

    def __init__(self, learner: Learner) -> None:
        assert isinstance(learner.objective, BabyAgent)
        self.objective = learner.objective
        self.gradients: dict[str, Array] = {}
        self.past_logits: list[Array] = []
        self.adamw = {name: AdamW(learner.config.schedule.weight_decay) for name, _ in self.student()}
        for name, parameter in self.student():
            parameter.register_post_accumulate_grad_hook(self._keep(name))  # type: ignore[no-untyped-call]
        self.objective.teacher.projector.register_forward_hook(self._see)

    def student(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.objective.student.named_parameters())

    def _keep(self, name: str) -> Any:
        def keep(parameter: Tensor) -> None:
            assert parameter.grad is not None
            self.gradients[name] = numpy(parameter.grad).copy()

        return keep

    def _see(self, _head: nn.Module, _inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        self.past_logits.append(numpy(outputs[1]))

    def weights(self) -> tuple[dict[str, Array], dict[str, Array], Array]:
        """Of the student, of the teacher, and the centre."""
        objective = self.objective
        student, teacher = (
            {name: numpy(p).copy() for name, p in network.named_parameters()}
            for network in (objective.student, objective.teacher)
        )
        return student, teacher, numpy(objective.centre.mean).copy()


def test_a_step_is_adamw_on_the_student_and_moving_averages_of_it_and_of_the_logits() -> None:
    settings = replace(TINY, teacher_momentum=0.7, centre_momentum=0.8)
    learner = tiny_learner(replace(LEARNER, objective=settings))
    with torch.no_grad():
        for parameter in learner.objective.trained():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded()))  # away from the teacher
    for pair in make_pairs(16):
        learner.add(pair)
    config, beside = learner.config, Beside(learner)
    for step in range(4):
        student, teacher, centre = beside.weights()
        beside.past_logits.clear()
        report = learner.step()
        rate = learning_rate(config.schedule, step)
        names, longest = list(beside.gradients), config.schedule.clip_grad_norm
        gradients = dict(zip(names, clipped(list(beside.gradients.values()), longest), strict=True))
        length = np.sqrt(sum(np.sum(gradient**2) for gradient in beside.gradients.values()))
        assert report.grad_norm == pytest.approx(length, rel=1e-4)
        assert length > longest, "the clip matters"
        now, past, middle = beside.weights()
        assert names != []
        assert set(names) == set(student)
        for name, weight in student.items():
            stepped = beside.adamw[name].after(weight, gradients[name], rate)
            assert np.allclose(now[name] - weight, stepped - weight, rtol=1e-3, atol=1e-3 * rate), name
            assert np.allclose(past[name], moved(teacher[name], now[name], 0.7), atol=1e-6)
        mean = np.concatenate(beside.past_logits).mean(0)
        assert np.allclose(middle, moved(centre, mean, 0.8), atol=1e-6)


# Arithmetic


def test_in_bfloat16_the_backbone_is_rounded_but_neither_the_places_nor_the_formula() -> None:
    objective, batch = agent(repulsion=0.1), some_pairs()
    whole = objective(batch, seeded())
    with torch.autocast("cpu", torch.bfloat16):
        rounded: Outcome = objective(batch, seeded())
        view = viewed(objective, batch, seeded())
        expected = rendering(objective, view)
    assert rounded.losses.dtype == rounded.ranked_by.dtype == view.small.dtype == torch.float32
    assert rounded.losses.isfinite().all()
    assert torch.allclose(rounded.losses, whole.losses, rtol=0.05)
    assert torch.allclose(rounded.ranked_by, whole.ranked_by, rtol=0.1, atol=0.05)
    maps = numpy(view.attention[torch.arange(4), view.head])
    assert np.allclose(view.gauss, [gaussian(each) for each in maps], atol=1e-5)
    assert np.allclose(rounded.losses.detach(), expected.losses, rtol=1e-5, atol=1e-5)
