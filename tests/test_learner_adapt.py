"""What of a pretrained encoder trains, how fast, and what holds it to its start: for every objective, through its contract."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from every_objective import COUNT, CPU, NAMES, some_pairs, trainer
from learner_state import digest, gone_on, leaves, trained
from safetensors.torch import load_file
from tiny_learner import TINY, make_pairs, tiny_learner
from torch import Tensor

from learner.adapt.anchor import ANCHOR_MEANINGS, anchor
from learner.adapt.config import MOMENTUM, PLANS, AdaptConfig, planned
from learner.adapt.layers import layers_of, matrices_of
from learner.config import LearnerConfig
from learner.errors import SettingsError
from learner.footprint import kept_bytes
from learner.loop import Learner
from learner.networks.encoder import Encoder, EncoderConfig
from learner.parts.network import Ema
from learner.runs.fork import _take_networks
from learner.trainer import Trainer
from learner.views.crops import shrink, to_rgb
from learner.weights.export import export_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

LORA = AdaptConfig(plan="lora", rank=2)
ANCHORED = AdaptConfig(anchor_features=1.0, anchor_patches=1.0, anchor_pairs=4)


def adapted(name: str = "simclr", **changes: Any) -> Trainer:
    """A trainer past its random start, which counts as the start of its run."""
    made = trainer(name, adapt=AdaptConfig(**changes))
    made.begin(lambda _objective: None)
    return made


def backbone(made: Trainer, name: str = "student") -> dict[str, Tensor]:
    return {key: value.clone() for key, value in made.objective.encoders()[name].backbone.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def rank(change: Tensor) -> int:
    """Of a matrix, or of the filters of a convolution, rounding aside."""
    values = np.linalg.svd(change.flatten(1).double().numpy(), compute_uv=False)
    return int((values > 1e-2 * values[0]).sum())


def heads(made: Trainer) -> dict[str, Tensor]:
    return {
        name: weight.detach().clone()
        for name, weight in made.objective.named_parameters()
        if weight.requires_grad and "encoder." not in name and not name.startswith("lora.")
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plan", PLANS)
def test_of_every_objective_those_weights_of_the_encoder_train_that_the_plan_names(name: str, plan: Any) -> None:
    made = adapted(name, plan=plan, rank=2, heads_alone_steps=1, anchor_features=1.0, anchor_patches=1.0)
    before, behind = backbone(made), heads(made)
    assert not made.step(some_pairs()).is_refused
    assert not changed(before, backbone(made))
    assert changed(behind, heads(made))
    for seed in (1, 2, 3):
        assert not made.step(some_pairs(seed=seed)).is_refused
    after = backbone(made)
    moved = changed(before, after)
    last = {key for key in before if key.startswith(("blocks.1.", "norm."))}
    matrices = {f"blocks.0.{one}.weight" for one in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    if plan == "full":
        assert moved > last | matrices
    else:
        assert matrices & moved == (matrices if plan == "lora" else set())
        assert not moved - last - matrices
        assert {key for key in last if before[key].ndim == 2} <= moved
    for key in matrices if plan == "lora" else ():
        assert 0 < rank(after[key] - before[key]) <= 2


def test_a_correction_gets_the_gradient_that_its_matrix_gives_it() -> None:
    """By the chain rule: dL/d(up) = strength * dL/dW @ down.T, dL/d(down) = strength * up.T @ dL/dW."""
    whole, low = adapted(), adapted(plan="lora", rank=2, strength=0.5)
    lora = low.adaptation._lora
    assert lora is not None
    with torch.no_grad():
        for up in lora.up:
            up.copy_(0.1 * torch.randn(up.shape, generator=torch.Generator().manual_seed(3)))
        lora.merge()
        whole.objective.load_state_dict(low.objective.state_dict(), strict=False)
    for made in (whole, low):
        made._backward(some_pairs())
    own = dict(whole.objective.encoders()["student"].backbone.named_parameters())
    for name, (down, up) in lora.parameters_of().items():
        gradient, of_down, of_up = own[name].grad, down.grad, up.grad
        assert gradient is not None
        assert of_down is not None
        assert of_up is not None
        expected = [0.5 * up.detach().T @ gradient, 0.5 * gradient @ down.detach().T]
        clip = float(of_up.norm() / expected[1].norm())  # each clips its own norm
        assert torch.allclose(of_down, clip * expected[0], rtol=1e-3, atol=1e-7)
        assert torch.allclose(of_up, clip * expected[1], rtol=1e-3, atol=1e-7)


def test_stored_weights_are_the_sum_that_a_step_uses_and_teachers_follow_that_sum(tmp_path: Path) -> None:
    made = adapted("moco", plan="lora", rank=2)
    before = backbone(made, "teacher")
    teacher = made.objective.teacher
    assert isinstance(teacher, Ema)
    made.step(some_pairs())
    lora, after = made.adaptation._lora, backbone(made)
    assert lora is not None
    assert made.adaptation.start is not None
    start = made.adaptation.start.backbone.state_dict()
    for name, (down, up) in lora.parameters_of().items():
        assert torch.equal(after[name], lora.sums()[name])
        assert torch.allclose(after[name], start[name] + (up @ down).detach(), atol=1e-7)
        expected = torch.lerp(before[name], after[name], 1 - teacher.momentum)
        assert torch.allclose(backbone(made, "teacher")[name], expected, atol=1e-7)
    export_encoder(made.objective.encoders()["student"], tmp_path / "student.safetensors", figures={}, settings={})
    exported = load_file(tmp_path / "student.safetensors")
    plain = timm.create_model(made.config.encoder.backbone, **made.config.encoder.timm_arguments())
    assert exported.keys() == plain.state_dict().keys()
    assert not changed(exported, after)


def test_a_step_without_a_plan_is_that_of_a_version_without_plans() -> None:
    made = trainer("simclr")
    assert AdaptConfig().changes_nothing
    assert made.optimizer.param_groups[0].keys() == {
        "rate_factor",
        *torch.optim.AdamW([torch.zeros(1)]).param_groups[0],
    }
    assert made.state_dict().keys() == {"objective", "optimizer", "guard", "snapshots", "counts"}
    assert not any(name.startswith("lora") for name in made.objective.state_dict())


def test_each_layer_has_its_rate_and_heads_have_that_of_the_schedule() -> None:
    made = adapted(plan="full", learning_rate=1e-4, layer_decay=0.5)
    for step in range(3):
        made.step(some_pairs(seed=step))
    encoder = made.objective.encoders()["student"]
    rates = {weight: group["lr"] for group in made.optimizer.param_groups for weight in group["params"]}
    own = dict(encoder.backbone.named_parameters())
    assert [len(layer) for layer in layers_of(encoder)] == [4, 12, 14]
    for number, layer in enumerate(layers_of(encoder)):
        assert [rates[own[name]] for name in layer] == pytest.approx([1e-4 * 0.5 ** (2 - number)] * len(layer))
    others = [rate for weight, rate in rates.items() if all(weight is not one for one in own.values())]
    assert others == pytest.approx([made.config.schedule.learning_rate] * len(others))


def test_heads_train_alone_first_and_then_the_encoders_rate_rises_from_0() -> None:
    made = adapted("mocov3", plan="lora", rank=2, heads_alone_steps=3, layer_decay=0.9)
    factors, before = [], backbone(made)
    for step in range(6):
        assert bool(changed(before, backbone(made))) == (step > 3)
        made.step(some_pairs(seed=step))
        of_encoder = [group for group in made.optimizer.param_groups if group.get("is_adapted")]
        factors.append(max(group["lr"] for group in of_encoder) / made.config.schedule.learning_rate)
        frozen = made.objective.encoders()["student"].backbone.patch_embed.proj.weight
        assert not frozen.requires_grad  # by MoCo v3 itself
    assert factors[3:] == pytest.approx([0.5, 1.0, 1.0])  # the warm-up is of 2 steps


def test_distances_from_the_start_are_those_of_their_formulas_and_0_at_the_start() -> None:
    made = adapted(**{key: getattr(ANCHORED, key) for key in ("anchor_features", "anchor_patches", "anchor_pairs")})
    student, start = made.objective.encoders()["student"], made.adaptation.start
    assert start is not None
    batch, side = some_pairs(), made.config.crops.probe_size
    term, _ = anchor(student, start, batch, ANCHORED, side)
    assert float(term.detach()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    config = dataclasses.replace(ANCHORED, anchor_features=0.5, anchor_patches=2.0)
    term, gauges = anchor(student, start, batch, config, side)
    images = to_rgb(shrink(batch.left[[0, 1, 3, 4]], side))
    with torch.no_grad():
        pairs = [[values.double().numpy() for values in one.tokens(images)] for one in (student, start)]
    (own, own_patches), (its, its_patches) = pairs
    normal = [one / np.linalg.norm(one, axis=-1, keepdims=True) for one in (own, its, own_patches, its_patches)]
    cosine = (normal[0] * normal[1]).sum(-1).mean()
    grams = [one @ one.transpose(0, 2, 1) for one in normal[2:]]
    gram = ((grams[0] - grams[1]) ** 2).mean()
    assert gram > 1e-4
    assert float(term.detach()) == pytest.approx(0.5 * (1 - cosine) + 2 * gram, rel=1e-4)
    assert [float(gauges[name]) for name in ANCHOR_MEANINGS] == pytest.approx([cosine, gram], rel=1e-4)


def test_a_second_teacher_holds_the_features_and_its_gauges_are_metrics() -> None:
    far, near = (
        adapted("vicreg", plan="full"),
        adapted("vicreg", plan="full", anchor_features=20.0, anchor_patches=20.0),
    )
    start = backbone(far)
    for step in range(12):
        for made in (far, near):
            report = made.step(some_pairs(seed=step)).report
    assert report.gauges.keys() == near.meanings.keys() >= ANCHOR_MEANINGS.keys()
    images = to_rgb(shrink(some_pairs(seed=99).left, 32))
    encoder = Encoder(near.config.encoder)
    encoder.backbone.load_state_dict(start)
    with torch.no_grad():
        own, its, theirs = (
            one(images) for one in (encoder, *(made.objective.encoders()["student"] for made in (near, far)))
        )
    cosines = [float(torch.cosine_similarity(own, other).mean()) for other in (its, theirs)]
    assert cosines[0] > cosines[1] + 0.01


def test_a_rollback_brings_back_corrections_and_their_sum() -> None:
    made = adapted("babyagent", plan="lora", rank=2)
    made.step(some_pairs())
    made._snapshots = [made._snapshot()]
    before = copy.deepcopy(made.objective.state_dict())
    made.step(some_pairs(seed=1))
    made.objective.load_state_dict(made._snapshots[0]["objective"])
    lora = made.adaptation._lora
    assert lora is not None
    assert not changed(before, made.objective.state_dict())
    assert all(torch.equal(value, backbone(made)[name]) for name, value in lora.sums().items())


def tiny(**changes: Any) -> LearnerConfig:
    return dataclasses.replace(TINY, adapt=AdaptConfig(anchor_pairs=4, **changes))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("cut", [12, 18])
def test_a_run_that_is_killed_anywhere_ends_as_one_that_was_not(plan: Any, cut: int, tmp_path: Path) -> None:
    config = tiny(plan=plan, rank=2, heads_alone_steps=5, anchor_features=1.0, anchor_patches=1.0, layer_decay=0.9)
    gone_on(lambda: tiny_learner(config), make_pairs(32), cut, tmp_path / "state")


def test_equal_settings_give_equal_weights_and_another_seed_other_corrections() -> None:
    runs = [tiny_learner(dataclasses.replace(tiny(plan="lora", rank=2), seed=seed)) for seed in (0, 0, 1)]
    for run in runs:
        trained(run, make_pairs(16))
    assert digest(runs[0]) == digest(runs[1])
    downs = [dict(leaves(run.objective.state_dict()))["/lora.down.0"] for run in runs]
    assert downs[0] != downs[2]


def test_a_start_that_was_loaded_is_the_one_that_holds_and_is_in_every_checkpoint() -> None:
    first, second = adapted("simclr", plan="lora", rank=2), trainer("simclr", 1, adapt=LORA)
    first.step(some_pairs())
    state = copy.deepcopy(first.state_dict())
    assert not changed(backbone(adapted("simclr")), {k.removeprefix("backbone."): v for k, v in state["start"].items()})
    second.load_state_dict(state, first.generator.get_state())
    losses = [made.step(some_pairs(seed=2)).report.loss for made in (first, second)]
    assert losses[0] == losses[1]
    assert not changed(backbone(first), backbone(second))


def test_a_run_that_forks_one_with_corrections_takes_all_its_networks_and_begins_without_any() -> None:
    old = adapted("simclr", plan="lora", rank=2)
    for step in range(3):
        old.step(some_pairs(seed=step))
    state = copy.deepcopy(old.objective.state_dict())
    for settings in (AdaptConfig(), LORA, AdaptConfig(plan="lora", rank=4), AdaptConfig(plan="last")):
        new = trainer("simclr", 1, adapt=settings)
        new.begin(lambda objective: _take_networks(state, objective))
        assert not changed(backbone(old), backbone(new))
        assert not changed(heads(old), heads(new))
        if new.adaptation._lora is not None:
            assert new.adaptation.start is not None
            assert not changed(backbone(old), new.adaptation.start.backbone.state_dict())
            assert not any(bool(up.any()) for up in new.adaptation._lora.up)


CNN = EncoderConfig(backbone="tf_efficientnet_lite0")


def convolutional(**changes: Any) -> Trainer:
    base = trainer("simclr").config
    made = Trainer(dataclasses.replace(base, encoder=CNN, adapt=AdaptConfig(**changes)), CPU)
    made.begin(lambda _objective: None)
    return made


@pytest.mark.parametrize("plan", ["last", "lora", "full"])
def test_the_norms_of_a_convolutional_backbone_keep_the_statistics_of_the_start(plan: str) -> None:
    made = convolutional(plan=plan, rank=4, heads_alone_steps=1)
    before = backbone(made)
    for step in range(3):
        assert not made.step(some_pairs(seed=step)).is_refused
    moved = changed(before, backbone(made))
    assert moved
    assert not [name for name in moved if "running" in name]


def test_of_a_convolutional_backbone_the_last_layers_train() -> None:
    made = convolutional(plan="last", blocks=2, anchor_features=1.0, anchor_patches=1.0, anchor_pairs=2)
    before = backbone(made)
    for step in range(2):
        assert not made.step(some_pairs(seed=step)).is_refused
    moved = changed(before, backbone(made))
    trains = ("blocks.5.3.", "blocks.6.0.", "conv_head.", "bn2.")
    assert all(name.startswith(trains) for name in moved)
    assert {name for name in moved if name.startswith("blocks.6.0.bn1.")} == {
        *("blocks.6.0.bn1.weight", "blocks.6.0.bn1.bias")
    }


def test_of_a_convolutional_backbone_lora_corrects_each_convolution_that_is_wide_enough() -> None:
    made = convolutional(plan="lora", rank=4)
    lora = made.adaptation._lora
    assert lora is not None
    sizes = matrices_of(made.objective.encoders()["student"])
    assert lora.parameters_of().keys() >= {"blocks.1.0.conv_pw.weight", "blocks.3.1.conv_pwl.weight"}
    assert all(min(sizes[name]) >= 8 for name in lora.parameters_of())
    before = backbone(made)
    for step in range(3):
        assert not made.step(some_pairs(seed=step)).is_refused
    after = backbone(made)
    assert lora.parameters_of().keys() <= changed(before, after)
    assert 0 < rank(after["blocks.3.1.conv_pwl.weight"] - before["blocks.3.1.conv_pwl.weight"]) <= 4
    assert torch.equal(before["blocks.3.1.bn1.running_mean"], after["blocks.3.1.bn1.running_mean"])


def test_a_backbone_whose_layers_nobody_knows_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(trainer("simclr").config.encoder)
    monkeypatch.delattr(type(encoder.backbone), "group_matcher")
    with pytest.raises(
        SettingsError, match=r"^timm does not know the layers of backbone 'vit_\w+', .* leave --adapt out$"
    ):
        layers_of(encoder)


@pytest.mark.parametrize("changes", [{"rank": 17}, {"rank": 2, "blocks": 2}])
def test_lora_that_would_correct_nothing_is_refused_in_one_line(changes: dict[str, Any]) -> None:
    with pytest.raises(
        SettingsError, match=r"^adapt: lora finds no matrix .*: lower --adapt\.rank or --adapt\.blocks$"
    ):
        adapted(plan="lora", **changes)


def test_what_a_step_keeps_grows_with_the_batch_as_without_a_second_teacher() -> None:
    plain, held = adapted(), adapted(anchor_features=1.0, anchor_pairs=8)
    grows = [kept_bytes(made, 4) - kept_bytes(made, 2) for made in (plain, held)]
    assert grows[1] == pytest.approx(grows[0], rel=0.01)
    assert kept_bytes(held, 2) > kept_bytes(plain, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": 0}, "adapt: blocks must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "adapt: learning_rate must be above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "adapt: learning_rate must be finite and above 0, got nan"),
        ({"layer_decay": 1.5}, "adapt: layer_decay must be above 0 and at most 1, got 1.5"),
        ({"anchor_patches": -1.0}, "adapt: anchor_patches must be at least 0, got -1.0"),
        ({"plan": "some"}, "adapt: plan must be one of off, last, lora, full, got 'some'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        AdaptConfig(**changes)
    assert str(caught.value) == message


def test_each_plan_holds_the_encoder_back_at_both_presets() -> None:
    for size in MOMENTUM:
        for plan in PLANS:
            settings = planned(plan, size)
            assert settings.plan == plan
            assert settings.is_anchored
            assert settings.heads_alone_steps > 0
            assert settings.learning_rate is not None
            assert settings.learning_rate <= 1e-4
    assert COUNT == 6
    assert Learner(TINY, CPU).trainer.adaptation.start is None
