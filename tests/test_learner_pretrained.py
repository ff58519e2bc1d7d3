"""Weights of others: every published layout gives the features of its own network, and what does not fit is said in one line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from published_weights import DEPTH, HEADS, KINDS, MEAN, SIDE, STD, WIDTH, features, hugging_face, official
from safetensors.torch import save_file
from tiny_learner import TINY, tiny_learner
from torch import Tensor

from learner.cli.settings import begin as settings_from
from learner.errors import SettingsError
from learner.networks.encoder import Encoder, EncoderConfig
from learner.objectives.table import OBJECTIVES
from learner.pretrained.files import MAX_TEXT_BYTES
from learner.pretrained.names import named
from learner.pretrained.start import Start, begin, encoder_of
from learner.weights.export import export_encoder

SMALL = EncoderConfig(backbone="vit_small_patch16_224.dino", image_size=SIDE, embed_dim=WIDTH, depth=DEPTH, heads=HEADS)


def started(path: Path, **changes: Any) -> tuple[Encoder, Start]:
    """An encoder that starts from these weights, as the learner makes it."""
    config = replace(encoder_of(str(path)), **changes)
    encoder = Encoder(config).eval().requires_grad_(False)
    return encoder, begin(encoder, config)


def pictures(side: int) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def assert_same(encoder: Encoder, kind: str, weights: dict[str, Tensor]) -> None:
    rgb = pictures(3 * encoder.patch_size)
    wanted = features(kind, weights, rgb)
    torch.testing.assert_close(encoder(rgb), wanted, atol=2e-5 * float(wanted.abs().max()), rtol=0)
    assert float((wanted[0] - wanted[1]).abs().max()) > 0.1  # the test could fail


@pytest.mark.parametrize("kind", KINDS)
def test_the_official_names_give_the_features_of_their_network(kind: str, tmp_path: Path) -> None:
    weights = official(kind)
    torch.save(weights, tmp_path / "official.pth")
    encoder, start = started(tmp_path / "official.pth")
    assert_same(encoder, kind, weights)
    assert torch.equal(encoder.mean, MEAN)
    assert torch.equal(encoder.std, STD)
    assert start["resized"] == []
    assert all(name.startswith(("mask_token", "decoder")) for name in start["surplus"]), start["surplus"]
    assert ("decoder_embed.weight" in start["surplus"]) == (kind == "mae")


@pytest.mark.parametrize("kind", KINDS)
def test_a_hugging_face_snapshot_gives_the_features_of_its_network(kind: str, tmp_path: Path) -> None:
    weights = official(kind, seed=3)
    theirs, config = hugging_face(kind, weights)
    prefix = {"dinov2": "dinov2.", "mae": "vit."}.get(kind, "")
    more = {f"{prefix}pooler.dense.weight": torch.ones(2), "classifier.weight": torch.ones(2)} if prefix else {}
    save_file({f"{prefix}{name}": tensor for name, tensor in theirs.items()} | more, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    pixels = {"image_mean": MEAN.flatten().tolist(), "image_std": STD.flatten().tolist()}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    encoder, start = started(tmp_path)
    assert_same(encoder, kind, weights)
    assert set(start["surplus"]) == {name.removeprefix(prefix) for name in more}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda own: {"model": own, "epoch": 3, "args": argparse.Namespace(lr=1.0)},
        lambda own: {"state_dict": {f"module.backbone.{name}": tensor for name, tensor in own.items()}},
        lambda own: {
            "student": {f"module.backbone.{name}": tensor + 1 for name, tensor in own.items()},
            "teacher": {f"backbone.{name}": tensor for name, tensor in own.items()}
            | {"head.mlp.0.bias": own["cls_token"]},
        },
        lambda own: {f"teacher.backbone.{name}": tensor for name, tensor in own.items()},
        lambda own: {
            name.replace("blocks.1.", "blocks.1.1.").replace("blocks.0.", "blocks.0.0."): own[name] for name in own
        },
        lambda own: {"model": {f"_orig_mod.{name}": tensor for name, tensor in own.items()}},
    ],
    ids=["mae", "module and backbone", "dino's checkpoint", "one level", "chunks of blocks", "compiled"],
)
def test_wrappers_around_weights_are_taken_off(wrapped: Callable[[dict[str, Tensor]], Any], tmp_path: Path) -> None:
    weights = official("dino", seed=5)
    torch.save(wrapped(weights), tmp_path / "wrapped.pth")
    assert_same(started(tmp_path / "wrapped.pth")[0], "dino", weights)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_an_export_starts_another_run_with_the_sizes_on_its_card(name: str, tmp_path: Path) -> None:
    config = EncoderConfig(backbone=name, image_size=16, patch_size=8, embed_dim=32, depth=2, heads=2)
    own = Encoder(config).eval()
    export_encoder(own, tmp_path / "student.safetensors", figures={}, settings={})
    encoder, start = started(tmp_path / "student.safetensors")
    assert replace(encoder.config, weights=None) == config
    assert torch.equal(encoder(pictures(16)), own(pictures(16)))
    assert (start["from"], start["surplus"]) == ("weights", [])
    assert encoder_of(str(tmp_path)) == replace(config, weights=str(tmp_path))  # the folder, where it holds one only
    card = json.loads((tmp_path / "student.json").read_text())
    (tmp_path / "student.json").write_text(json.dumps(card | {"arguments": {"embed_dim": "wide"}}))
    with pytest.raises(SettingsError, match="the model card beside it is damaged"):
        encoder_of(str(tmp_path / "student.safetensors"))


def test_a_snapshot_of_timm_says_itself_which_backbone_it_is(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=5)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet10t", "pretrained_cfg": {"tag": "c3_in1k"}})
    )
    encoder, start = started(tmp_path)
    assert encoder.config.backbone == "resnet10t.c3_in1k"
    assert start["surplus"] == ["fc.bias", "fc.weight"]
    own = encoder.backbone.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items() if name in own)
    assert "layer4.0.conv1.weight" in own


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0.in1k", "convnext_atto"])
def test_a_convolutional_backbone_that_is_named_takes_its_weights(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name, num_classes=3)
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, tmp_path / "own.safetensors")
    with pytest.raises(SettingsError, match=r"name one with --encoder.backbone"):
        encoder_of(str(tmp_path / "own.safetensors"))
    config = EncoderConfig(backbone=name, weights=str(tmp_path / "own.safetensors"))
    encoder = Encoder(config).eval()
    assert all(key.split(".")[0] in ("classifier", "head") for key in begin(encoder, config)["surplus"])
    given = model.state_dict()
    assert all(torch.equal(tensor, given[key]) for key, tensor in encoder.backbone.state_dict().items())


@pytest.mark.parametrize("name", ["twins_svt_small", "mobilenetv4_hybrid_medium", "mobilenetv5_base", "levit_128s"])
def test_a_backbone_whose_blocks_are_counted_in_stages_keeps_its_names(name: str) -> None:
    with torch.device("meta"):
        own = timm.create_model(name, num_classes=0).state_dict()
    assert list(named(own).tensors) == list(own)
    assert named({f"module.{key}": tensor for key, tensor in own.items()}).tensors.keys() == own.keys()


def test_an_export_with_blocks_in_stages_starts_another_run(tmp_path: Path) -> None:
    own = Encoder(EncoderConfig(backbone="twins_svt_small"))
    export_encoder(own, tmp_path / "student.safetensors", figures={}, settings={})
    encoder, start = started(tmp_path / "student.safetensors")
    given = own.backbone.state_dict()
    assert all(torch.equal(tensor, given[key]) for key, tensor in encoder.backbone.state_dict().items())
    assert (start["tensors"], start["surplus"]) == (len(given), [])


@pytest.mark.parametrize(
    "more",
    [
        {"encoder.layer.0.norm1.bias": torch.ones(WIDTH), "layer.0.norm1.bias": torch.ones(WIDTH)},
        {"encoder.layer.0.attn.qkv.weight": torch.ones(3 * WIDTH, WIDTH)},
        {"encoder.layer.1.attn.qkv.bias": torch.ones(3 * WIDTH)},
        {"cls_token": torch.ones(1, 1, WIDTH)},
    ],
    ids=["two wrappers", "joined already", "biases joined already", "two layouts"],
)
def test_two_tensors_that_would_get_one_name_are_refused(more: dict[str, Tensor], tmp_path: Path) -> None:
    tensors, _ = hugging_face("dinov2", official("dinov2"))
    save_file(tensors | more, tmp_path / "both.safetensors")
    with pytest.raises(SettingsError, match=r"it has \S+ twice, under two names: take one of them out of the file$"):
        encoder_of(str(tmp_path / "both.safetensors"))
    config = replace(SMALL, weights=str(tmp_path / "both.safetensors"))
    with pytest.raises(SettingsError, match=r"both.safetensors does not fit backbone \S+: it has \S+ twice"):
        begin(Encoder(config), config)


def test_parts_that_hold_the_same_tensor_are_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({"cls_token": torch.full((2,), float(number))}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    with pytest.raises(
        SettingsError, match=r"model-00002-of-00002.safetensors has cls_token, which another part has too"
    ):
        encoder_of(str(tmp_path))


def test_weights_with_the_head_of_a_classifier_are_those_that_timm_has_under_the_name(tmp_path: Path) -> None:
    """DINO's have none, and other means of pixels."""
    torch.save(official("dino") | {"head.weight": torch.ones(5, WIDTH), "head.bias": torch.ones(5)}, tmp_path / "a.pth")
    encoder, start = started(tmp_path / "a.pth")
    assert encoder.config.backbone == "vit_small_patch16_224"
    assert torch.equal(encoder.mean, torch.full((3, 1, 1), 0.5))
    assert start["surplus"] == ["head.bias", "head.weight"]


def snapshot(folder: Path, *, has_classifier: bool, preprocessor: str | None) -> Path:
    """A ViT as Hugging Face has it, with the text of its `preprocessor_config.json`."""
    theirs, config = hugging_face("dino", official("dino"))
    head = {"classifier.weight": torch.ones(5, WIDTH)} if has_classifier else {}
    save_file({f"vit.{name}": tensor for name, tensor in theirs.items()} | head, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(preprocessor)
    return folder


@pytest.mark.parametrize("has_classifier", [False, True])
@pytest.mark.parametrize(
    ("preprocessor", "backbone", "mean", "std"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "vit_small_patch16_224", [0.5] * 3, [0.5] * 3),
        ({"image_mean": [0.43, 0.411, 0.296], "image_std": [0.2, 1, 0.1]}, None, [0.43, 0.411, 0.296], [0.2, 1, 0.1]),
        ({"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, None, [0.0] * 3, [1.0] * 3),
    ],
    ids=["as timm has them for one name", "of nobody else", "not normalised"],
)
def test_pixels_are_normalised_as_a_hugging_face_snapshot_says(
    preprocessor: dict[str, Any],
    backbone: str | None,
    mean: list[float],
    std: list[float],
    has_classifier: bool,
    tmp_path: Path,
) -> None:
    snapshot(tmp_path, has_classifier=has_classifier, preprocessor=json.dumps(preprocessor))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        encoder, start = started(path)
        assert backbone in (None, encoder.config.backbone)
        assert (encoder.config.mean is None) == (backbone is not None)  # the name says it then
        assert (start["mean"], start["std"]) == (pytest.approx(mean), pytest.approx(std))
    export_encoder(encoder, tmp_path / "own" / "student.safetensors", figures={}, settings={})
    again, _ = started(tmp_path / "own" / "student.safetensors")
    assert torch.equal(again.mean, encoder.mean)
    assert torch.equal(again.std, encoder.std)
    assert (again.config.backbone, again.config.mean is None) == (encoder.config.backbone, encoder.config.mean is None)


@pytest.mark.parametrize("has_classifier", [False, True])
@pytest.mark.parametrize(
    "preprocessor",
    [
        *(
            None,
            "",
            "[]",
            '{"image_mean": ',
            '{"image_mean": 0.5, "image_std": 0.5}',
            '{"image_mean": [0.1, 0.1, 0.1]}',
        ),
        '{"image_mean": [0.1, 0.1], "image_std": [0.1, 0.1]}',
        '{"image_mean": [0.1, 0.1, 0.1], "image_std": [0.1, 0.1, 0]}',
        '{"image_mean": [0.1, 0.1, "0.1"], "image_std": [0.1, 0.1, true]}',
        '{"image_mean": [0.1, 0.1, NaN], "image_std": [0.1, 0.1, Infinity]}',
        f'{{"image_mean": [0.1, 0.1, 1{"0" * 400}], "image_std": [0.1, 0.1, 0.1]}}',
        '{"image_mean": [127, 127, 127], "image_std": [127, 127, 127]}',
        '{"image_mean": [0.1, 0.1, 0.1], "image_std": [0.1, 0.1, 0.1]}' + " " * MAX_TEXT_BYTES,
    ],
)
def test_without_sensible_numbers_the_head_of_a_classifier_decides_about_pixels(
    preprocessor: str | None, has_classifier: bool, tmp_path: Path
) -> None:
    config = encoder_of(str(snapshot(tmp_path, has_classifier=has_classifier, preprocessor=preprocessor)))
    assert config.backbone == ("vit_small_patch16_224" if has_classifier else "vit_small_patch16_224.dino")
    assert (config.mean, config.std) == (None, None)


@pytest.mark.parametrize("within", [True, False], ids=["today's", "from before its version 0.9"])
def test_pixels_are_normalised_as_a_snapshot_of_timm_says(within: bool, tmp_path: Path) -> None:
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "model.safetensors")
    pixels = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet10t"} | ({"pretrained_cfg": pixels} if within else pixels))
    )
    encoder, _ = started(tmp_path)
    assert (encoder.config.mean, encoder.config.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    rgb = pictures(64)
    bare = (rgb - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    assert torch.equal(encoder(rgb), encoder.backbone(bare))


def test_tables_of_positions_and_patches_are_resized_and_named(tmp_path: Path) -> None:
    torch.save(official("dino"), tmp_path / "official.pth")
    encoder, start = started(tmp_path / "official.pth", image_size=80, patch_size=8)
    assert start["resized"] == [
        f"patch_embed.proj.weight [{WIDTH}, 3, 16, 16] to [{WIDTH}, 3, 8, 8]",
        f"pos_embed [1, 10, {WIDTH}] to [1, 101, {WIDTH}]",
    ]
    assert encoder(pictures(40)).isfinite().all()
    whole, _ = started(tmp_path / "official.pth")
    rgb = torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, SIDE)
    finer, _ = started(tmp_path / "official.pth", image_size=2 * SIDE)
    same = torch.cosine_similarity(finer(torch.nn.functional.interpolate(rgb, (SIDE, SIDE))), whole(rgb))
    assert float(same) > 0.9


def test_missing_tensors_and_wrong_shapes_are_named(tmp_path: Path) -> None:
    weights = official("dino")
    del weights["blocks.1.attn.proj.bias"], weights["norm.weight"]
    weights["blocks.0.norm1.weight"] = torch.ones(7)
    torch.save(weights, tmp_path / "part.pth")
    with pytest.raises(SettingsError) as refused:
        encoder_of(str(tmp_path / "part.pth"))
    said = str(refused.value)
    assert "lacks blocks.1.attn.proj.bias, norm.weight" in said
    assert f"blocks.0.norm1.weight [7], not [{WIDTH}]" in said
    assert f"a vision transformer of width {WIDTH} with {DEPTH} blocks and patches of 16 px" in said
    assert "\n" not in said


def test_weights_of_another_network_are_refused_with_what_they_look_like(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.ones(2, 3, 3, 3), "bn1.bias": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(
        SettingsError, match=r"it looks like no vision transformer: 2 tensors, the first are bn1.bias, conv1"
    ):
        encoder_of(str(tmp_path / "other.safetensors"))
    config = replace(SMALL, weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(SettingsError, match=r"does not fit backbone vit_small_patch16_224.dino: it lacks cls_token, "):
        begin(Encoder(config), config)


def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        weights = official("dino")
        weights["blocks.1.mlp.fc1.bias"][3] = value
        torch.save(weights, tmp_path / "spoiled.pth")
        with pytest.raises(SettingsError, match=r"values in blocks.1.mlp.fc1.bias are not finite"):
            encoder_of(str(tmp_path / "spoiled.pth"))


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn])
@pytest.mark.parametrize("published", ["dino", "dinov3"])
def test_quantised_weights_are_refused_by_name(published: str, kind: torch.dtype, tmp_path: Path) -> None:
    """Without the scales, which lie elsewhere, they are noise that runs."""
    weights = official(published)
    torch.save(
        weights | {"blocks.1.mlp.fc1.bias": (20 * weights["blocks.1.mlp.fc1.bias"]).to(kind)}, tmp_path / "a.pth"
    )
    name = str(kind).removeprefix("torch.")
    with pytest.raises(SettingsError, match=rf"blocks.1.mlp.fc1.bias: quantised \({name}\), give the float weights$"):
        encoder_of(str(tmp_path / "a.pth"))
    torch.save({key: (20 * tensor).to(kind) for key, tensor in weights.items()}, tmp_path / "all.pth")
    with pytest.raises(SettingsError, match=rf" more: quantised \({name}\), give the float weights$"):
        encoder_of(str(tmp_path / "all.pth"))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_other_widths_are_taken_and_counters_stay_whole(kind: torch.dtype, tmp_path: Path) -> None:
    whole = timm.create_model("resnet10t", num_classes=0).state_dict()
    own = {key: tensor.to(kind) if tensor.is_floating_point() else tensor + 7 for key, tensor in whole.items()}
    save_file(own, tmp_path / "own.safetensors")
    config = EncoderConfig(backbone="resnet10t", weights=str(tmp_path / "own.safetensors"))
    encoder = Encoder(config)
    begin(encoder, config)
    state = encoder.backbone.state_dict()
    assert int(state["bn1.num_batches_tracked"]) == 7
    assert all(torch.equal(tensor, own[key].to(tensor.dtype)) for key, tensor in state.items())


def test_tied_weights_and_what_training_scripts_add_are_no_reason_to_refuse(tmp_path: Path) -> None:
    own = official("dino")
    own["blocks.1.norm2.weight"] = own["blocks.0.norm2.weight"]
    torch.save(
        {"model": own, "optimizer": {"state": {0: torch.eye(3).to_sparse()}}, 3: torch.ones(1)}, tmp_path / "a.pth"
    )
    assert_same(started(tmp_path / "a.pth")[0], "dino", own)


def test_a_card_that_asks_for_endless_blocks_takes_no_memory(tmp_path: Path) -> None:
    own = Encoder(SMALL)
    export_encoder(own, tmp_path / "student.safetensors", figures={}, settings={})
    card = json.loads((tmp_path / "student.json").read_text())
    card["arguments"]["depth"] = 10**9
    (tmp_path / "student.json").write_text(json.dumps(card))
    with pytest.raises(SettingsError, match=r"depth must be 1 to 256, got 1000000000$"):
        encoder_of(str(tmp_path / "student.safetensors"))


@pytest.mark.parametrize("heads", [True, 0, -3, "1"])
def test_heads_that_are_no_count_are_not_taken(heads: object, tmp_path: Path) -> None:
    tensors, beside = hugging_face("dino", official("dino"))
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(beside | {"num_attention_heads": heads}))
    assert encoder_of(str(tmp_path)).heads == WIDTH // 64


def test_a_name_that_leads_to_no_weights_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file or folder; timm:NAME asks timm"):
        encoder_of(str(tmp_path / "none.pth"))
    with pytest.raises(SettingsError, match="holds no weights"):
        encoder_of(str(tmp_path))
    for name in ("student", "teacher"):
        save_file(official("dino"), tmp_path / f"{name}.safetensors")
    with pytest.raises(SettingsError, match=r"several weights \(student.safetensors, teacher.safetensors\)"):
        encoder_of(str(tmp_path))
    (tmp_path / "config.json").write_text('{"encoder": {}, "objective": {}}')
    with pytest.raises(SettingsError, match="is a run: --fork"):
        encoder_of(str(tmp_path))


def test_a_tag_never_gives_random_weights_in_silence() -> None:
    tagged = replace(TINY, encoder=replace(TINY.encoder, backbone="vit_tiny_patch16_224.augreg_in21k"))
    with pytest.raises(SettingsError, match=r"add --encoder.weights timm:vit_tiny_patch16_224.augreg_in21k or a file"):
        tiny_learner(tagged)


def test_without_a_network_timm_weights_say_what_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    config = encoder_of("timm:vit_tiny_patch16_224.augreg_in21k")
    assert config.backbone == "vit_tiny_patch16_224.augreg_in21k"
    address = "https://huggingface.co/timm/vit_tiny_patch16_224.augreg_in21k/resolve/main/model.safetensors"
    with pytest.raises(SettingsError) as refused:
        begin(Encoder(config), config)
    assert address in str(refused.value)
    assert "--encoder.weights FILE --encoder.backbone vit_tiny_patch16_224.augreg_in21k" in str(refused.value)
    wrong = EncoderConfig(backbone="vit_tiny_patch16_224", weights="timm:vit_tiny_patch16_224.nothing")
    with pytest.raises(SettingsError, match=r"timm has no weights called 'vit_tiny_patch16_224.nothing'"):
        begin(Encoder(wrong), wrong)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_student_and_teacher_of_every_objective_start_from_the_weights(name: str, tmp_path: Path) -> None:
    weights = official("dino")
    torch.save(weights, tmp_path / "official.pth")
    config = settings_from({"objective": name, "encoder.weights": str(tmp_path / "official.pth")}).learner
    objective = tiny_learner(config).objective
    encoders = [part for part in objective.modules() if isinstance(part, Encoder)]
    assert encoders
    for encoder in encoders:
        assert torch.equal(encoder.backbone.blocks[1].attn.qkv.weight, weights["blocks.1.attn.qkv.weight"])
