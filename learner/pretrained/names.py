"""Gives tensors the names that timm reads. It knows the names of DINO, DINOv2, DINOv3, MAE, Hugging Face and wrappers. Pure.

Formats, each as published: facebookresearch/dino, dinov2 and dinov3 (`blocks.0.attn.qkv`, `register_tokens`, `storage_tokens`),
mae (`decoder_*` beside the encoder), and transformers' ViT, ViTMAE, Dinov2, Dinov2WithRegisters and DINOv3ViT, which have q, k
and v apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learner.errors import SettingsError

_WRAPPERS = ("teacher", "model_ema", "student", "model", "state_dict", "module", "backbone")
"""Keys below which a `.pth` has its tensors; of teacher and student the teacher is what DINO and DINOv2 evaluate."""
_PREFIXES = (
    *("module.", "_orig_mod.", "teacher.", "model_ema.", "student.", "backbone.", "model.", "base_model."),
    *("vit.", "dinov2.", "dinov2_with_registers.", "dinov3_vit."),
)
_MAX_DEPTH = 8
_HUGGING_FACE = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.(?:projection\.)?(weight|bias)$", r"patch_embed.proj.\1"),
        (r"^(?:model\.)?(?:encoder\.)?layer\.(?=\d)", "blocks."),
        (r"\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.", r".attn.\1."),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"\.mlp\.weights_in\.", ".mlp.w12."),
        (r"\.mlp\.weights_out\.", ".mlp.w3."),
        (r"^layernorm\.", "norm."),
    )
]
_CHUNK = re.compile(r"^blocks\.(\d+)\.(?=(\d+)\.(?:norm1|norm2|attn|mlp|ls1|ls2)\.)")
"""DINOv2 trains its blocks in chunks: `blocks.CHUNK.NUMBER`, and goes on counting from one chunk to the next."""


class Named(NamedTuple):
    """Tensors under timm's names or those of the official release, and the names of the file's other tensors."""

    tensors: dict[str, Tensor]
    left_out: list[str]


def unwrapped(tree: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return the innermost dictionary of a `.pth`, below the keys that training scripts put around a network."""
    for _ in range(_MAX_DEPTH):
        inner = next((tree[key] for key in _WRAPPERS if isinstance(tree.get(key), Mapping)), None)
        if inner is None:
            break
        tree = inner
    return tree


def named(tensors: Mapping[str, Tensor]) -> Named:
    """Return the tensors of a backbone among those of a file. Raises SettingsError where two would get the same name."""
    tensors, left_out = _without_prefixes(tensors)
    if "embeddings.cls_token" in tensors:
        tensors = _from_hugging_face(tensors)
    return Named(_without_chunks(tensors), left_out)


def _renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for old, tensor in tensors.items():
        _put(renamed, rename(old), tensor)
    return renamed


def _put(tensors: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name in tensors:
        raise SettingsError(f"it has {name[:80]} twice, under two names: take one of them out of the file")
    tensors[name] = tensor


def _without_chunks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the numbers of chunks. Those of stages stay: each stage counts its blocks from 0, or has other parts too."""
    matches = [_CHUNK.match(name) for name in tensors if name.startswith("blocks.")]
    blocks = {found.groups() for found in matches if found}
    is_chunked = all(matches) and len({number for _, number in blocks}) == len(blocks)
    return _renamed(tensors, lambda name: _CHUNK.sub("blocks.", name) if is_chunked else name)


def _without_prefixes(tensors: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], list[str]]:
    left_out: list[str] = []
    for _ in range(_MAX_DEPTH):
        prefix = next((one for one in _PREFIXES if any(name.startswith(one) for name in tensors)), None)
        if prefix is None:
            break
        left_out += [name for name in tensors if not name.startswith(prefix)]
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return tensors, left_out


def _from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    is_gated = any(".mlp.gate_proj." in name for name in tensors)
    mlp = {"gate": "w1", "up": "w2", "down": "w3"} if is_gated else {"up": "fc1", "down": "fc2"}

    def ours(name: str) -> str:
        for pattern, new in _HUGGING_FACE:
            name = pattern.sub(new, name)
        return re.sub(r"\.mlp\.(gate|up|down)_proj\.", lambda found: f".mlp.{mlp.get(found[1], found[1])}.", name)

    renamed = _renamed(tensors, ours)
    if "pos_embed" not in renamed and "register_tokens" in renamed:  # DINOv3: rotary embeddings
        _put(renamed, "storage_tokens", renamed.pop("register_tokens"))
    return _fused(renamed)


def _fused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join q, k and v of each block, where all three weights are there; a bias that only some have is 0 for the others."""
    for name in [name for name in tensors if name.endswith(".attn.q.weight")]:
        start = name.removesuffix("q.weight")
        weights = [tensors.get(f"{start}{one}.weight") for one in "qkv"]
        biases = [tensors.get(f"{start}{one}.bias") for one in "qkv"]
        if any(weight is None or weight.ndim != 2 for weight in weights):
            continue
        if any(bias is not None and bias.ndim != 1 for bias in biases):
            continue
        found = [weight for weight in weights if weight is not None]
        joined = torch.cat(found) if len({w.shape[1] for w in found}) == 1 else found[0]
        _put(tensors, f"{start}qkv.weight", joined)
        if any(bias is not None for bias in biases):
            filled = [w.new_zeros(len(w)) if b is None else b for w, b in zip(found, biases, strict=True)]
            _put(tensors, f"{start}qkv.bias", torch.cat(filled))
        for one in "qkv":
            tensors.pop(f"{start}{one}.weight")
            tensors.pop(f"{start}{one}.bias", None)
    return tensors
