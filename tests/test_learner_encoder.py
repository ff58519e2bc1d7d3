"""Any timm vision transformer: its features are timm's own, its attention the softmax of its last block's weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import timm
import torch
from every_objective import small, some_pairs
from numpy.typing import NDArray
from torch import Tensor

from learner.errors import SettingsError
from learner.networks.encoder import Encoder, EncoderConfig
from learner.networks.norm import SharedBatchNorm
from learner.trainer import Trainer
from learner.views.anywhere import TwoConfig

Array = NDArray[np.float64]


pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(backbone: str = "vit_tiny_patch16_224") -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(backbone=backbone, image_size=32, patch_size=8, embed_dim=32, depth=2, heads=2)).eval()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def attention_by_hand(encoder: Encoder, tokens: Array) -> Array:
    """softmax(q k^T / sqrt(d)) of the last block for its input [B, T, D], the row of `[CLS]` over patches: [B, heads, T - 1]."""
    block = encoder.backbone.blocks[-1]
    variance = tokens.var(-1, keepdims=True)
    normed = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(variance + block.norm1.eps)
    normed = normed * numpy(block.norm1.weight) + numpy(block.norm1.bias)
    qkv = normed @ numpy(block.attn.qkv.weight).T + numpy(block.attn.qkv.bias)
    heads, width = block.attn.num_heads, tokens.shape[-1] // block.attn.num_heads
    query, key, _ = qkv.reshape(*tokens.shape[:2], 3, heads, width).transpose(2, 0, 3, 1, 4)
    scores = np.einsum("bhd,bhtd->bht", query[:, :, 0], key) / np.sqrt(width)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    to_patches = (weights / weights.sum(-1, keepdims=True))[:, :, 1:]
    return np.asarray(to_patches / to_patches.sum(-1, keepdims=True))


def test_the_attention_of_a_plain_vit_is_the_softmax_of_its_last_blocks_queries_and_keys() -> None:
    encoder, seen = tiny(), []
    with torch.no_grad():
        for weight in (encoder.backbone.blocks[-1].attn.qkv.weight, encoder.backbone.cls_token):
            weight.mul_(30)  # at its random start every map is nearly even and would hide a mistake
    hook = encoder.backbone.blocks[-1].register_forward_pre_hook(lambda _block, inputs: seen.append(inputs[0]))
    maps = encoder.attention(images(3, 3, 32, 48))
    hook.remove()
    assert maps.shape == (3, 2, 4, 6)
    expected = attention_by_hand(encoder, numpy(seen[0]))
    assert expected.max() > 0.1
    assert np.allclose(maps.flatten(2), expected, atol=1e-5)


@pytest.mark.parametrize(
    "backbone",
    [
        "vit_tiny_patch16_224",
        "deit3_small_patch16_224",  # layer scale, no position on [CLS]
        "deit_tiny_distilled_patch16_224",  # a second prefix token
        "vit_small_patch14_dinov2",  # layer scale
        "vit_small_patch14_reg4_dinov2",  # registers
        "vit_base_patch16_clip_224",  # a norm before the blocks
        "eva02_tiny_patch14_224",  # rotary embedding, SwiGLU
        "vit_small_patch16_dinov3",  # both, and mean-pooled features
    ],
)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 56)])
def test_the_attention_of_every_family_is_a_distribution_over_its_patches(
    backbone: str, height: int, width: int
) -> None:
    encoder = tiny(backbone)
    maps = encoder.attention(images(2, 3, height, width))
    assert maps.shape == (2, 2, height // 8, width // 8)
    assert not maps.requires_grad
    assert (maps >= 0).all()
    assert torch.allclose(maps.sum((2, 3)), torch.ones(2, 2), atol=1e-5)
    assert encoder(images(2, 3, height, width)).shape == (2, encoder.dim)


def test_a_patch_behind_a_convolutional_stem_is_counted_in_pixels() -> None:
    encoder = Encoder(EncoderConfig(backbone="vit_tiny_r_s16_p8_224", depth=1))
    assert encoder.patch_size == 32
    assert encoder.attention(images(1, 3, 64, 96)).shape == (1, 3, 2, 3)


@pytest.mark.parametrize("side", [32, 64])
def test_features_are_timms_own_on_normalised_images(side: int) -> None:
    encoder = tiny("deit_small_patch16_224")
    changed: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    backbone = timm.create_model("deit_small_patch16_224", num_classes=0, dynamic_img_size=True, **changed).eval()
    backbone.load_state_dict(encoder.backbone.state_dict())
    rgb = images(2, 3, side, side)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised = (numpy(rgb) - mean[:, None, None]) / std[:, None, None]
    assert encoder.dim == 32
    assert torch.allclose(encoder(rgb), backbone(torch.tensor(normalised, dtype=torch.float32)), atol=1e-5)


def test_the_normalisation_is_the_backbones_own() -> None:
    assert tiny("vit_tiny_patch16_224").mean.flatten().tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert tiny("deit_small_patch16_224").mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_a_fresh_timm_model_takes_the_weights_and_the_arguments() -> None:
    encoder = tiny()
    backbone = timm.create_model(encoder.config.backbone, dynamic_img_size=True, **encoder.config.timm_arguments())
    backbone.load_state_dict(encoder.backbone.state_dict())
    assert not any(name in ("mean", "std") for name in encoder.state_dict())


def test_what_comes_behind_the_last_softmax_is_not_computed() -> None:
    encoder, computed = tiny(), []
    for block in encoder.backbone.blocks:
        block.mlp.register_forward_hook(lambda module, _inputs, _output: computed.append(module))
    encoder.attention(images(1, 3, 32, 32))
    assert computed == [block.mlp for block in encoder.backbone.blocks[:-1]]


@pytest.mark.parametrize("fused", [True, False])
def test_looking_leaves_the_model_as_it_was(fused: bool) -> None:
    encoder = tiny()
    layer = encoder.backbone.blocks[-1].attn
    layer.fused_attn = fused
    before = encoder(images(2, 3, 32, 32))
    encoder.attention(images(2, 3, 32, 32))
    assert layer.fused_attn is fused
    assert not layer.attn_drop._forward_hooks
    assert torch.equal(encoder(images(2, 3, 32, 32)), before)


def test_looking_leaves_the_model_as_it_was_even_where_it_fails() -> None:
    encoder = tiny()
    layer = encoder.backbone.blocks[-1].attn
    layer.fused_attn = True
    with pytest.raises(AssertionError, match="divisible by patch size"):
        encoder.attention(images(1, 3, 30, 30))
    assert layer.fused_attn is True
    assert not layer.attn_drop._forward_hooks


def refusal(config: EncoderConfig) -> str:
    with pytest.raises(SettingsError) as caught:
        Encoder(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_unknown_backbone_is_refused_with_names_near_it() -> None:
    message = refusal(EncoderConfig(backbone="deit_smal_patch16_224"))
    assert message.startswith("timm knows no backbone 'deit_smal_patch16_224'; did you mean deit_small_patch16_224")
    assert "timm.list_models" in refusal(EncoderConfig(backbone="?"))
    assert "vit_tiny_patch16_224.nowhere" in refusal(EncoderConfig(backbone="vit_tiny_patch16_224.nowhere", depth=1))


def without_own_sizes(backbone: str) -> Encoder:
    return Encoder(EncoderConfig(backbone=backbone, depth=1 if backbone.startswith("vit") else None)).eval()


@pytest.mark.parametrize(
    ("backbone", "side", "count"),
    [
        ("vit_tiny_patch16_224", 32, 4),
        ("vit_small_patch14_dinov2", 28, 4),
        ("vit_small_patch14_reg4_dinov2", 28, 4),
        ("eva02_tiny_patch14_224", 28, 4),
        ("convnext_atto", 64, 4),
        ("resnet18", 64, 4),
    ],
)
def test_every_backbone_has_tokens_beside_the_features_that_it_always_had(backbone: str, side: int, count: int) -> None:
    encoder, rgb = without_own_sizes(backbone), images(2, 3, side, side)
    features, tokens = encoder.tokens(rgb)
    assert torch.allclose(features, encoder(rgb), atol=1e-5)
    assert tokens.shape == (2, count, encoder.dim)


@pytest.mark.parametrize(
    "backbone", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224"]
)
def test_a_transformer_that_sees_all_patches_in_another_order_says_the_same_of_each(backbone: str) -> None:
    encoder = without_own_sizes(backbone)
    rgb = images(2, 3, 4 * encoder.patch_size, 4 * encoder.patch_size)
    features, tokens = encoder.tokens(rgb)
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    again, turned = encoder.tokens(rgb, keep=order)
    assert torch.allclose(again, features, atol=1e-4)
    assert torch.allclose(turned, tokens.gather(1, order[..., None].expand_as(tokens)), atol=1e-4)
    few, _ = encoder.tokens(rgb, keep=order[:, :3])
    changed = rgb.clone()
    row, column = divmod(int(order[0, 10]), 4)
    changed[0, :, row * encoder.patch_size :, column * encoder.patch_size :][
        :, : encoder.patch_size, : encoder.patch_size
    ] = 0
    assert torch.allclose(encoder.tokens(changed, keep=order[:, :3])[0], few, atol=1e-5)
    assert torch.equal(encoder.tokens(rgb)[1], tokens)


@pytest.mark.parametrize(
    ("backbone", "need"),
    [
        ("resnet18", "attention"),
        ("resnet18", "some tokens"),
        ("convnext_atto", "some tokens"),
        ("vit_medium_patch16_gap_240", "attention"),
        ("vit_small_patch16_18x2_224", "attention"),
        ("xcit_nano_12_p16_224", "attention"),
    ],
)
def test_what_a_backbone_lacks_is_refused_in_one_line_that_names_others(backbone: str, need: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"^views needs .+, which backbone '{backbone}' lacks: take one such as deit"
    ):
        without_own_sizes(backbone).require(need, "views")
    without_own_sizes("vit_tiny_patch16_224").require(need, "views")


SMALL = EncoderConfig(image_size=32, patch_size=8, embed_dim=32, depth=2, heads=2)


@pytest.mark.parametrize(
    ("backbone", "has"),
    [
        ("vit_small_patch14_dinov2", {"attention", "some tokens"}),
        ("vit_small_patch14_reg4_dinov2", {"attention", "some tokens"}),
        ("eva02_tiny_patch14_224", {"attention", "some tokens"}),
        ("convnext_atto", set()),
        ("resnet18", set()),
    ],
)
def test_every_kind_of_backbone_learns_and_what_it_lacks_is_refused_before(backbone: str, has: set[str]) -> None:
    sizes = dataclasses.replace(SMALL, backbone=backbone) if has else EncoderConfig(backbone=backbone)
    for name, need in (("simclr", ""), ("contrastive", "attention"), ("mae", "some tokens")):
        config = dataclasses.replace(small(name), encoder=sizes)
        if need in {"", *has}:
            assert not Trainer(config, torch.device("cpu")).step(some_pairs()).is_refused
        else:
            with pytest.raises(
                SettingsError, match=rf"^[a-z: ]+ needs .+, which backbone '{backbone}' lacks: take one"
            ):
                Trainer(config, torch.device("cpu"))
    if not has:  # other views need no attention, as the message says
        with pytest.raises(SettingsError, match=r", or --views multi$"):
            Trainer(dataclasses.replace(small("contrastive"), encoder=sizes), torch.device("cpu"))
        config = dataclasses.replace(small("contrastive"), encoder=sizes, views=TwoConfig.for_preset("cpu"))
        made = Trainer(config, torch.device("cpu"))
        assert not made.step(some_pairs()).is_refused
        networks = made.objective.encoders()
        for mine, other in zip(networks["student"].buffers(), networks["teacher"].buffers(), strict=True):
            assert torch.equal(mine, other), "a copy has the statistics of this step"


def test_a_size_that_a_backbone_does_not_take_is_refused_in_one_line() -> None:
    encoder = without_own_sizes("mixer_s32_224")
    encoder.require_sizes(TwoConfig(size=224), "size")
    with pytest.raises(
        SettingsError, match=r"^views: size 32 is no size of images that backbone 'mixer_s32_224' takes$"
    ):
        encoder.require_sizes(TwoConfig(size=32), "size")


def test_a_batch_norm_moves_only_after_a_step_and_is_loaded_by_timm() -> None:
    encoder = Encoder(EncoderConfig(backbone="resnet18"))
    reference = timm.create_model("resnet18", num_classes=0)
    reference.load_state_dict(encoder.backbone.state_dict())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    rgb = images(4, 3, 64, 64)
    found, expected = encoder.train()(rgb), reference.train()((rgb - encoder.mean) / encoder.std)
    assert torch.allclose(found, expected, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    for part in encoder.modules():
        if isinstance(part, SharedBatchNorm):
            part.after_step()
    for name, value in reference.state_dict().items():
        if "running" in name:
            assert torch.allclose(encoder.backbone.state_dict()[name], value, rtol=1e-3, atol=1e-5), name
    assert torch.allclose(encoder.eval()(rgb), reference.eval()((rgb - encoder.mean) / encoder.std), atol=1e-3)


def test_sizes_that_no_transformer_has_are_refused_in_one_line() -> None:
    message = refusal(EncoderConfig(backbone="vit_tiny_patch16_224", embed_dim=30, heads=4, depth=1))
    assert "'embed_dim': 30" in message
    assert "'num_heads': 4" in message


@pytest.mark.parametrize("name", ["image_size", "patch_size", "embed_dim", "depth", "heads"])
@pytest.mark.parametrize("size", [0, -1, 10**6])
def test_a_size_out_of_bounds_is_refused_in_one_line(name: str, size: int) -> None:
    wrong: dict[str, Any] = {name: size}
    with pytest.raises(SettingsError, match=rf"^encoder: {name} must be 1 to \d+, got {size}$"):
        EncoderConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"mean": (0.5, 0.5, 1.1)}, {"mean": (0.5, float("nan"), 0.5)}, {"std": (0.5, 0.0, 0.5)}]
)
def test_pixels_are_normalised_by_sensible_numbers_only(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"^encoder: (mean|std) must be three numbers from \S+ to 1, got \(.+\)$"):
        EncoderConfig(**wrong)
