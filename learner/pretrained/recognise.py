"""Finds the timm backbone that weights belong to, by the JSON beside them or by names and shapes. Pure.

The number of attention heads cannot be seen in weights: where nothing says it, a head is 64 wide, as in every published ViT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import isclose
from typing import Any, Literal

import msgspec
import timm
from torch import Tensor

from learner.errors import SettingsError
from learner.networks.encoder import Channels, EncoderConfig
from learner.pretrained.names import Named

_SIZES = {
    (192, 12): "tiny",
    (384, 12): "small",
    (768, 12): "base",
    (1024, 24): "large",
    (1280, 32): "huge",
    (1536, 40): "giant",
}
"""Width and blocks of the published ViTs."""
_HEAD_WIDTH = 64
Pool = Literal["token", "avg"] | None
_CARD = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "embed_dim",
    "depth": "depth",
    "num_heads": "heads",
}
_CARD |= {"global_pool": "pool"}
"""timm's arguments on a model card, and our names for them."""


def recognised(given: Named, beside: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> EncoderConfig:
    """Return the encoder that these tensors are the weights of. beside, preprocessor: as `learner.pretrained.files.Found` has.

    Raises SettingsError, in one line that says what they look like, if that cannot be told.
    """
    if isinstance(beside.get("backbone"), str) and isinstance(beside.get("arguments"), Mapping):
        config = _of_card(beside)
    elif isinstance(beside.get("architecture"), str):
        tag = str(_part(beside, "pretrained_cfg").get("tag"))
        config = EncoderConfig(backbone=_tagged(beside["architecture"], tag))
    elif _width_and_depth(given.tensors) is not None:
        config = _by_shapes(given, beside)
    else:
        raise SettingsError(
            f"it is not known whose weights these are ({looks(given.tensors)}): name one with --encoder.backbone"
        )
    return _with_pixels(config, beside, preprocessor)


def _with_pixels(config: EncoderConfig, beside: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> EncoderConfig:
    """Return the encoder with the mean and deviation of pixels that a file states, which timm may have under another name."""
    if preprocessor.get("do_normalize") is False:
        preprocessor = {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    stated = [(part.get("mean"), part.get("std")) for part in (beside, _part(beside, "pretrained_cfg"))]
    stated.append((preprocessor.get("image_mean"), preprocessor.get("image_std")))
    for pair in stated:
        try:
            mean, std = msgspec.convert(pair, tuple[Channels, Channels])
            exact = replace(config, mean=mean, std=std)
        except (msgspec.ValidationError, SettingsError, OverflowError):  # none, or no sensible ones
            continue
        names = (config.backbone, config.backbone.split(".")[0])
        same = next((name for name in names if _timm_has(name, (*mean, *std))), None)
        return replace(config, backbone=same) if same else exact
    return config


def _timm_has(name: str, pixels: tuple[float, ...]) -> bool:
    """Return whether timm has this mean and deviation for a name; a card of ours has them as float32."""
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError:  # it has no such tag
        return False
    return known is not None and all(map(partial(isclose, rel_tol=1e-6), pixels, (*known.mean, *known.std)))


def looks(tensors: Mapping[str, Tensor]) -> str:
    """Return in a few words what tensors look like, to a person who gave the wrong file."""
    size = _width_and_depth(tensors)
    if size is None:
        names = ", ".join(str(name)[:40] for name in list(tensors)[:3]) or "none"
        return f"it looks like no vision transformer: {len(tensors)} tensors, the first are {names}"
    side = tensors["patch_embed.proj.weight"].shape[-1]
    return f"it looks like a vision transformer of width {size[0]} with {size[1]} blocks and patches of {side} px"


def _width_and_depth(tensors: Mapping[str, Tensor]) -> tuple[int, int] | None:
    numbers = {int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d{1,3})\.", name))}
    patches = tensors.get("patch_embed.proj.weight")
    if (
        not numbers
        or patches is None
        or patches.ndim != 4
        or patches.shape[1] != 3
        or patches.shape[2] != patches.shape[3]
    ):
        return None
    return patches.shape[0], len(numbers)


def _by_shapes(given: Named, beside: Mapping[str, Any]) -> EncoderConfig:
    tensors = given.tensors
    size = _width_and_depth(tensors)
    assert size is not None
    width, depth = size
    side = tensors["patch_embed.proj.weight"].shape[-1]
    has_classifier = "head.weight" in tensors or "classifier.weight" in (*tensors, *given.left_out)
    base, pool = _family(tensors, _SIZES.get(size, "small"), side, has_classifier=has_classifier)
    stated = beside.get("num_attention_heads")
    heads = stated if type(stated) is int and stated > 0 else width // _HEAD_WIDTH
    if not heads or width % heads:
        raise SettingsError(
            f"{looks(tensors)}, whose attention heads cannot be told: give --encoder.backbone and its sizes"
        )
    is_published = size in _SIZES and heads == width // _HEAD_WIDTH
    sizes = {} if is_published else {"embed_dim": width, "depth": depth, "heads": heads}
    sizes |= {} if f"patch{side}" in base else {"patch_size": side}
    known, image_side = timm.get_pretrained_cfg(base), _image_side(tensors, side)
    if image_side is not None and (known is None or image_side != known.input_size[-1]):
        sizes["image_size"] = image_side
    return msgspec.convert({"backbone": base, "pool": pool, **sizes}, EncoderConfig)


def _family(tensors: Mapping[str, Tensor], size: str, side: int, *, has_classifier: bool) -> tuple[str, Pool]:
    """Return timm's name of the family, and how its features are pooled where timm does it differently."""
    if "pos_embed" not in tensors:
        plus = "_plus" if "blocks.0.mlp.w1.weight" in tensors else ""
        biases = [tensor.chunk(3) for name, tensor in tensors.items() if name.endswith("qkv.bias") and tensor.ndim]
        has_biases = any(bool(part.any()) for parts in biases for part in (parts[0], parts[-1]))
        return _known(f"vit_{size}{plus}_patch16_dinov3", "_qkvb" if has_biases else ""), "token"
    if "blocks.0.ls1.gamma" in tensors:
        registers = "_reg4" if {"register_tokens", "reg_token"} & tensors.keys() else ""
        return _known(f"vit_{size}_patch14{registers}_dinov2"), None
    name = _known(f"vit_{size}_patch{side}_224")
    if has_classifier:
        return name, None
    return next((one for tag in ("dino", "mae") if (one := _tagged(name, tag)) != name), name), None


def _known(name: str, variant: str = "") -> str:
    """Return timm's name of a backbone, or of the small one with patches of 16 px that has the same parts."""
    small = re.sub(r"^vit_[a-z0-9]+_", "vit_small_", name)
    names = [f"{name}{variant}", f"{small}{variant}", re.sub(r"patch\d+", "patch16", f"{small}{variant}")]
    return next((one for one in names if timm.is_model(one)), names[-1])


def _tagged(name: str, tag: str) -> str:
    """Return the name with the tag of pretrained weights, by which timm knows mean and deviation, if timm has them."""
    return f"{name}.{tag}" if f"{name}.{tag}" in timm.list_pretrained(f"{name}.*") else name


def _image_side(tensors: Mapping[str, Tensor], side: int) -> int | None:
    """Return the side in pixels of the images that a square table of positions was made for; None: there is none."""
    table = tensors.get("pos_embed")
    if table is None or table.ndim != 3:
        return None
    grid = round((table.shape[1]) ** 0.5)
    return grid * side if table.shape[1] - grid**2 in (0, 1) else None


def _of_card(card: Mapping[str, Any]) -> EncoderConfig:
    sizes = {ours: card["arguments"][theirs] for theirs, ours in _CARD.items() if theirs in card["arguments"]}
    try:
        return msgspec.convert({"backbone": card["backbone"], **sizes}, EncoderConfig)
    except msgspec.MsgspecError as error:
        raise SettingsError(f"the model card beside it is damaged ({error})") from error


def _part(beside: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = beside.get(name)
    return value if isinstance(value, Mapping) else {}
