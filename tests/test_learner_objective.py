"""The seed's objective against its formula in NumPy, given what the networks put out; and where its crops come from."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from learner.encoder import Encoder, EncoderConfig
from learner.errors import SettingsError
from learner.objective import Batch, Look, Objective, Outcome
from learner.objectives.babyagent import BabyAgent, BabyAgentConfig, pairwise_cosines, repulsion, sinkhorn
from learner.views import Augmentation, crop, to_rgb

Array = NDArray[np.float64]

ENCODER = EncoderConfig(backbone="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=32, depth=2, heads=2)
TINY = BabyAgentConfig(
    crops=3,
    attention_size=32,
    teacher_size=32,
    student_size=16,
    prototypes=16,
    hidden=32,
    bottleneck=8,
    student_temperature=0.2,
    teacher_temperature=0.15,
)
PLAIN = Augmentation(flip=0, jitter=0, grey=0, blur=0, solarise=0)


pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def agent(seed: int = 0, **changes: Any) -> BabyAgent:
    """A tiny objective past its random start: its networks differ, and tell images apart, so that no term is trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objective = BabyAgent(ENCODER, dataclasses.replace(TINY, **changes))
        with torch.no_grad():
            for parameter in objective.parameters():
                if parameter.ndim > 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
            objective.centre.copy_(0.1 * torch.randn(objective.config.prototypes))
    return objective


def some_pairs(count: int = 4, seed: int = 0) -> Batch:
    """Smooth random pairs, the eyes unlike each other."""
    coarse = torch.rand(2 * count, 3, 4, 5, generator=seeded(seed))
    fine = nn.functional.interpolate(coarse, (24, 32), mode="bilinear").permute(0, 2, 3, 1)
    left, right = (fine * 255).to(torch.uint8).chunk(2)
    return Batch(left, right, torch.full((count,), 4 / 3))


def numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def swav(scores: Array, rounds: int = 3) -> Array:
    """Sinkhorn-Knopp as Caron et al. 2020 print it, in plain space: [B, K]."""
    plan = np.exp(scores).T
    prototypes, pairs = plan.shape
    plan /= plan.sum()
    for _ in range(rounds):
        plan /= plan.sum(1, keepdims=True) * prototypes
        plan /= plan.sum(0, keepdims=True) * pairs
    return np.asarray((plan * pairs).T)


def repelled(projection: Array, temperature: float) -> float:
    """sum_i log sum_{j != i} exp(z_i z_j / temperature) of one pair's projections [N, D], term by term."""
    crops = range(len(projection))
    return sum(
        math.log(sum(math.exp(projection[i] @ projection[j] / temperature) for j in crops if j != i)) for i in crops
    )


@dataclasses.dataclass
class Rendering:
    """The module's formula in NumPy."""

    losses: Array
    kl: Array
    target: Array
    cosines: Array


@torch.no_grad()
def rendering(objective: BabyAgent, view: Look) -> Rendering:
    config, (count, crops) = objective.config, view.student_views.shape[:2]
    logits_past = numpy(objective.teacher(view.teacher_view)[1])
    projection, logits = map(numpy, objective.student(view.student_views.flatten(0, 1)))
    if config.centring == "sinkhorn":
        past = swav(logits_past / config.teacher_temperature)
    else:
        past = softmax((logits_past - numpy(objective.centre)) / config.teacher_temperature)
    present = softmax(logits / config.student_temperature).reshape(count, crops, -1)
    projection = projection.reshape(count, crops, -1)
    cross_entropy = -(past[:, None] * np.log(present)).sum(-1)
    losses = cross_entropy.sum(1)
    if config.repulsion:
        losses += config.repulsion * np.array([repelled(row, config.repulsion_temperature) for row in projection])
    kl = (past[:, None] * (np.log(past[:, None] + 1e-300) - np.log(present))).sum(-1).mean(1)
    return Rendering(losses, kl, past, projection @ projection.transpose(0, 2, 1))


# The formula


@pytest.mark.parametrize("crops", [2, 3, 5])
@pytest.mark.parametrize("weight", [0.0, 0.1])
@pytest.mark.parametrize("centring", ["ema", "sinkhorn"])
def test_losses_are_the_formula_of_what_the_networks_put_out(centring: str, weight: float, crops: int) -> None:
    objective, batch = agent(centring=centring, repulsion=weight, crops=crops), some_pairs()
    outcome = objective(batch, seeded())
    expected = rendering(objective, objective.look(batch, seeded()))
    assert outcome.losses.shape == outcome.priority.shape == (4,)
    assert np.allclose(outcome.losses.detach(), expected.losses, rtol=1e-5, atol=1e-5)
    assert np.allclose(outcome.priority, expected.kl, rtol=1e-4, atol=1e-5)


def test_one_crop_is_enough_without_repulsion() -> None:
    objective = agent(crops=1, repulsion=0.0)
    outcome = objective(some_pairs(), seeded())
    assert np.allclose(
        outcome.losses.detach(), rendering(objective, objective.look(some_pairs(), seeded())).losses, rtol=1e-5
    )
    assert float(outcome.gauges["crop_cosine"]) == pytest.approx(0, abs=1e-6)


def test_the_priority_is_what_the_student_can_still_lower() -> None:
    """KL = cross-entropy - entropy of the teacher, not below 0, without gradient."""
    objective, batch = agent(repulsion=0.0), some_pairs(8)
    outcome = objective(batch, seeded())
    target = rendering(objective, objective.look(batch, seeded())).target
    entropy = -(target * np.log(target + 1e-300)).sum(1)
    assert np.allclose(outcome.priority, numpy(outcome.losses) / 3 - entropy, atol=1e-5)
    assert (outcome.priority >= 0).all()
    assert not outcome.priority.requires_grad


def test_the_gauges_are_those_of_the_batch() -> None:
    objective, batch = agent(), some_pairs(8)
    gauges = {name: float(value) for name, value in objective(batch, seeded()).gauges.items()}
    expected = rendering(objective, objective.look(batch, seeded()))
    entropies, mean = [-(p * np.log(p + 1e-300)).sum(-1) for p in (expected.target, expected.target.mean(0))]
    off_diagonal = expected.cosines[:, ~np.eye(3, dtype=bool)]
    assert gauges["kl"] == pytest.approx(expected.kl.mean(), rel=1e-4)
    assert gauges["teacher_entropy"] == pytest.approx(entropies.mean(), rel=1e-4)
    assert gauges["prototypes_in_use"] == pytest.approx(np.exp(mean), rel=1e-4)
    assert gauges["crop_cosine"] == pytest.approx(off_diagonal.mean(), rel=1e-4)


@given(st.integers(2, 6), st.integers(0, 2**31), st.sampled_from([0.05, 0.1, 1.0]))
def test_repulsion_is_its_double_sum(crops: int, seed: int, temperature: float) -> None:
    projection = nn.functional.normalize(torch.randn(3, crops, 8, generator=seeded(seed)), dim=-1)
    found = repulsion(pairwise_cosines(projection), temperature)
    assert np.allclose(found, [repelled(row, temperature) for row in numpy(projection)], rtol=1e-4, atol=1e-3)


def test_repulsion_is_least_where_the_crops_lie_opposite() -> None:
    apart, equal = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])[:, None]
    assert float(repulsion(pairwise_cosines(apart), 0.05)) == pytest.approx(-40)
    assert float(repulsion(pairwise_cosines(equal), 0.05)) == pytest.approx(40)


# Sinkhorn


@given(st.integers(1, 12), st.integers(2, 12), st.integers(0, 2**31), st.sampled_from([0.05, 0.3, 1.0]))
def test_sinkhorn_is_swavs_and_its_rows_sum_to_one(pairs: int, prototypes: int, seed: int, temperature: float) -> None:
    scores = (torch.rand(pairs, prototypes, generator=seeded(seed)) * 2 - 1) / temperature
    found = sinkhorn(scores)
    assert np.allclose(found, swav(numpy(scores)), atol=1e-4)
    assert torch.allclose(found.sum(1), torch.ones(pairs), atol=1e-5)


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


# Gradient and state


def test_gradient_reaches_every_crop_and_every_parameter_of_the_student() -> None:
    objective, kept = agent(), list[Tensor]()

    def keep(_head: nn.Module, _inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        outputs[1].retain_grad()
        kept.append(outputs[1])

    objective.student.head.register_forward_hook(keep)
    objective(some_pairs(), seeded()).losses.mean().backward()
    assert kept[0].shape == (4 * 3, 16)
    assert kept[0].grad is not None
    assert (kept[0].grad.abs().amax(1) > 1e-6).all()
    assert [name for name, p in objective.student.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_only_the_bias_of_the_keys_gets_no_gradient() -> None:
    """It adds the same to all scores of a query, which the softmax does not see: rounding is all that is left."""
    objective = agent()
    objective(some_pairs(), seeded()).losses.mean().backward()
    for block in objective.student.encoder.backbone.blocks:
        query, key, value = block.attn.qkv.bias.grad.abs().view(3, 32).amax(1).tolist()
        assert key < 1e-4 * min(query, value)


def test_nothing_reaches_the_teacher() -> None:
    objective = agent()
    objective(some_pairs(), seeded()).losses.mean().backward()
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
    trained, student = set(map(id, objective.trained())), set(map(id, objective.student.parameters()))
    assert trained == student
    assert objective.encoders() == {"student": objective.student.encoder, "teacher": objective.teacher.encoder}


def test_the_teacher_begins_as_the_student() -> None:
    objective = BabyAgent(ENCODER, TINY)
    for name, tensor in objective.student.state_dict().items():
        assert torch.equal(objective.teacher.state_dict()[name], tensor)


def test_after_a_step_the_teacher_follows_the_student_and_the_centre_the_teachers_mean() -> None:
    objective, batch = agent(teacher_momentum=0.9, centre_momentum=0.7), some_pairs()
    before = {name: numpy(tensor).copy() for name, tensor in objective.teacher.state_dict().items()}
    centre = numpy(objective.centre).copy()
    objective(batch, seeded())
    with torch.no_grad():
        mean = numpy(objective.teacher(objective.look(batch, seeded()).teacher_view)[1]).mean(0)
    objective.after_step()
    present = objective.student.state_dict()
    for name, tensor in objective.teacher.state_dict().items():
        assert np.allclose(tensor, 0.9 * before[name] + 0.1 * numpy(present[name]), atol=1e-6)
    assert np.allclose(objective.centre, 0.7 * centre + 0.3 * mean, atol=1e-6)


@pytest.mark.parametrize("centring", ["ema", "sinkhorn"])
def test_a_batch_whose_step_is_refused_leaves_no_trace(centring: str) -> None:
    objective = agent(centring=centring)
    before = copy.deepcopy(objective.state_dict())
    first = objective(some_pairs(), seeded())
    first.losses.mean().backward()
    objective.look(some_pairs(seed=1), seeded(5))
    assert all(torch.equal(tensor, before[name]) for name, tensor in objective.state_dict().items())
    assert torch.equal(objective(some_pairs(), seeded()).losses, first.losses)


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


# Where the crops come from


class Planted(Encoder):
    """A teacher that looks where it is told: maps [heads, h, w]."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__(ENCODER)
        self.maps = maps / maps.sum((1, 2), keepdim=True)

    def attention(self, rgb: Tensor) -> Tensor:
        return self.maps.expand(len(rgb), *self.maps.shape)


def bump(x: float, y: float, spread: float = 0.08) -> Tensor:
    """A Gaussian bump [16, 16] around (x, y)."""
    at = (torch.arange(16) + 0.5) / 16
    density: Tensor = torch.exp(-((at - x) ** 2 + (at[:, None] - y) ** 2) / (2 * spread**2))
    return density


def scene(x: int, y: int, disparity: int, *, side: int = 64) -> Batch:
    """A square object of 8 pixels centred at (x, y): red on black for the left eye, green on dark blue for the right."""
    left, right = torch.zeros(2, 1, side, side, 3, dtype=torch.uint8)
    right[..., 0] = 60
    left[:, y - 4 : y + 4, x - 4 : x + 4] = torch.tensor([0, 0, 255], dtype=torch.uint8)
    right[:, y - 4 : y + 4, x - disparity - 4 : x - disparity + 4] = torch.tensor([0, 255, 0], dtype=torch.uint8)
    return Batch(left, right, torch.ones(1))


def watching(*maps: Tensor, **changes: Any) -> BabyAgent:
    objective = agent(teacher_augmentation=PLAIN, student_augmentation=PLAIN, **changes)
    objective.teacher.encoder = Planted(torch.stack(maps))
    return objective


def centroid(mass: Tensor) -> list[float]:
    """Centre of mass (x, y) of [S, S] in fractions of the side."""
    at = (torch.arange(len(mass)) + 0.5) / len(mass)
    return [float((mass.sum(0) * at).sum() / mass.sum()), float((mass.sum(1) * at).sum() / mass.sum())]


def gaussians(view: Look) -> Array:
    """Mean and standard deviation (x, y) of the chosen heads' maps: [B, 4]."""
    weights = numpy(view.attention[torch.arange(len(view.head)), view.head])
    at = (np.arange(weights.shape[-1]) + 0.5) / weights.shape[-1]
    mean = np.stack([weights.sum(1) @ at, weights.sum(2) @ at], -1)
    second = np.stack([weights.sum(1) @ at**2, weights.sum(2) @ at**2], -1)
    return np.concatenate([mean, np.sqrt(second - mean**2)], -1)


@pytest.mark.parametrize(("x", "y"), [(24, 40), (36, 24), (32, 32)])
def test_the_teacher_sees_the_object_of_the_left_eye_in_the_middle_of_its_view(x: int, y: int) -> None:
    view = watching(bump(x / 64, y / 64)).look(scene(x, y, disparity=5), seeded())
    red, green, blue = view.teacher_view[0]
    assert centroid(red) == pytest.approx([0.5, 0.5], abs=0.02)
    assert red.max() == 1
    assert not green.any()
    assert not blue.any()


def test_every_crop_of_the_student_is_taken_from_the_right_eye_inside_the_same_window() -> None:
    batch = scene(28, 36, disparity=4)
    view = watching(bump(28 / 64, 36 / 64), crops=12, repulsion=0.0).look(batch, seeded())
    red, green, blue = view.student_views[0].unbind(1)
    assert not red.any()
    assert (green.amax((1, 2)) > 0.5).sum() >= 9, "most crops show the object"
    assert (blue.amax((1, 2)) > 0.2).all()
    assert torch.equal(view.student_views[0], crop(to_rgb(batch.right), view.crops, 16))
    assert torch.equal(view.teacher_view, crop(to_rgb(batch.left), view.window[:, None], 32))
    reach = (view.crops[0, :, :2] - view.window[:, :2]).abs() + view.crops[0, :, 2:]
    assert (reach <= view.window[:, 2:] + 1e-6).all()


def test_between_the_eyes_the_object_moves_by_its_disparity_and_nothing_else() -> None:
    objective = watching(bump(0.5, 0.5), student_scale=(1.0, 1.0), student_size=32)
    view = objective.look(scene(32, 32, disparity=5), seeded())
    left, right = centroid(view.teacher_view[0, 0]), centroid(view.student_views[0, 0, 1])
    width = 2 * float(view.window[0, 2]) * 64
    assert (left[0] - right[0]) * width == pytest.approx(5, abs=0.1)
    assert left[1] == pytest.approx(right[1], abs=1e-3)


def test_each_pair_is_looked_at_with_one_head_chosen_evenly() -> None:
    objective = watching(bump(0.3, 0.3), bump(0.7, 0.6))
    one = scene(32, 32, disparity=0, side=16)
    many = Batch(one.left.expand(1000, -1, -1, -1), one.right.expand(1000, -1, -1, -1), torch.ones(1000))
    view = objective.look(many, seeded())
    assert abs(float(view.head.float().mean()) - 0.5) < 4 * 0.5 / math.sqrt(1000)
    expected = torch.tensor([[0.3, 0.3], [0.7, 0.6]])[view.head]
    assert torch.allclose(view.gauss[:, :2], expected, atol=5e-3)
    assert torch.allclose(view.window[:, :2], expected, atol=5e-3)


def test_the_gaussian_is_that_of_the_chosen_heads_map_for_a_real_backbone() -> None:
    view = agent().look(some_pairs(), seeded())
    assert np.allclose(view.gauss, gaussians(view), atol=1e-5)


# Arithmetic


def test_in_bfloat16_the_backbone_is_rounded_but_neither_the_places_nor_the_formula() -> None:
    objective, batch = agent(repulsion=0.1), some_pairs()
    whole = objective(batch, seeded())
    with torch.autocast("cpu", torch.bfloat16):
        rounded: Outcome = objective(batch, seeded())
        view = objective.look(batch, seeded())
        expected = rendering(objective, view)
    assert rounded.losses.dtype == rounded.priority.dtype == view.student_views.dtype == torch.float32
    assert rounded.losses.isfinite().all()
    assert torch.allclose(rounded.losses, whole.losses, rtol=0.05)
    assert torch.allclose(rounded.priority, whole.priority, rtol=0.1, atol=0.05)
    assert np.allclose(view.gauss, gaussians(view), atol=1e-5)
    assert np.allclose(rounded.losses.detach(), expected.losses, rtol=1e-5, atol=1e-5)


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


# Settings


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"crops": 0, "repulsion": 0.0}, "crops must be at least 1"),
        ({"crops": 1}, "2 with repulsion"),
        ({"repulsion": -0.1}, "repulsion must be at least 0"),
        ({"student_temperature": 0.0}, "temperatures must be above 0"),
        ({"teacher_temperature": -0.02}, "temperatures must be above 0"),
        ({"teacher_temperature": math.nan}, "temperatures must be above 0"),
        ({"repulsion_temperature": 0.0}, "temperatures must be above 0"),
        ({"student_scale": (0.8, 0.4)}, "0 < low <= high <= 1"),
        ({"student_scale": (0.4, 1.2)}, "0 < low <= high <= 1"),
        ({"teacher_momentum": 1.0}, r"must be in \[0, 1\)"),
        ({"centre_momentum": -0.1}, r"must be in \[0, 1\)"),
        ({"prototypes": 1}, "prototypes must be at least 2"),
        ({"smallest_window": 0.0}, r"smallest_window must be in \(0, 1\]"),
        ({"window_sigmas": 0.0}, "window_sigmas must be above 0"),
        ({"student_size": 0}, "sizes must be at least 1"),
        ({"hidden": 0}, "widths must be at least 1"),
        ({"centring": "none"}, "centring must be ema or sinkhorn"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=rf"^objective: .*{reason}.*$"):
        BabyAgentConfig(**wrong)


@pytest.mark.parametrize("name", ["attention_size", "teacher_size", "student_size"])
def test_a_size_that_is_no_multiple_of_the_patch_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"^objective: {name} 20 must be a multiple of the patch size 8$"):
        agent(**{name: 20})


def test_the_seeds_objective_satisfies_the_contract_that_the_loop_knows() -> None:
    """mypy checks the assignment; the loop asks for nothing else."""
    objective: Objective = BabyAgent(ENCODER, TINY)
    assert {"student", "teacher"} == set(objective.encoders())
