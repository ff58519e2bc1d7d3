"""Small weights in the layouts that others publish, and their networks written out from the papers' code, apart from timm."""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

WIDTH, DEPTH, HEADS, PATCH, GRID = 128, 2, 2, 16, 3
SIDE = PATCH * GRID
MEAN, STD = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
Weights = dict[str, Tensor]
KINDS = ("dino", "mae", "dinov2", "dinov2_registers", "dinov3")


def official(kind: str, *, patch: int | None = None, seed: int = 0) -> Weights:
    """The tensors of a release, as its own code names them, at random values that make every one of them matter."""
    make = torch.Generator().manual_seed(seed)

    def some(*shape: int, scale: float = 0.3) -> Tensor:
        return torch.randn(shape, generator=make) * scale

    def layer(name: str, out: int, inside: int) -> Weights:
        return {f"{name}.weight": some(out, inside, scale=2 / math.sqrt(inside)), f"{name}.bias": some(out)}

    def norm(name: str) -> Weights:
        return {f"{name}.weight": 1 + some(WIDTH), f"{name}.bias": some(WIDTH)}

    side = patch or (14 if kind.startswith("dinov2") else PATCH)
    weights = {"cls_token": some(1, 1, WIDTH), "patch_embed.proj.bias": some(WIDTH)}
    weights["patch_embed.proj.weight"] = some(WIDTH, 3, side, side, scale=0.05)
    if kind != "dinov3":
        weights["pos_embed"] = some(1, 1 + GRID**2, WIDTH)
    if kind == "mae":
        weights |= {"mask_token": some(1, 1, 64), "decoder_pos_embed": some(1, 1 + GRID**2, 64)}
        weights |= layer("decoder_embed", 64, WIDTH) | layer("decoder_blocks.0.attn.qkv", 192, 64)
    if kind.startswith("dinov"):
        weights["mask_token"] = some(1, WIDTH)
    if kind == "dinov2_registers":
        weights["register_tokens"] = some(1, 4, WIDTH)
    if kind == "dinov3":
        weights |= {"storage_tokens": some(1, 4, WIDTH), "rope_embed.periods": some(WIDTH // HEADS // 4)}
    for block in (f"blocks.{number}" for number in range(DEPTH)):
        weights |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        weights |= layer(f"{block}.attn.qkv", 3 * WIDTH, WIDTH) | layer(f"{block}.attn.proj", WIDTH, WIDTH)
        weights |= layer(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH) | layer(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
        if kind.startswith("dinov"):
            weights |= {f"{block}.ls{number}.gamma": some(WIDTH) for number in (1, 2)}
        if kind == "dinov3":
            mask = torch.ones(3, WIDTH)
            mask[1] = 0
            weights[f"{block}.attn.qkv.bias_mask"] = mask.flatten()
    return weights | norm("norm")


def hugging_face(kind: str, weights: Weights) -> tuple[Weights, dict[str, object]]:
    """The same weights as transformers names them, with q, k and v apart, and what `config.json` beside them says."""
    is_third, is_vit = kind == "dinov3", kind in ("dino", "mae")
    names = [
        (r"^blocks\.", "layer." if is_third else "encoder.layer."),
        (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
        (r"^storage_tokens$", "embeddings.register_tokens"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", f"embeddings.patch_embeddings.{'' if is_third else 'projection.'}"),
        (r"\.attn\.proj\.", ".attention.o_proj." if is_third else ".attention.output.dense."),
        (r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1"),
        (r"^norm\.", "norm." if is_third else "layernorm."),
    ]
    if is_third:
        names += [(r"\.fc1\.", ".up_proj."), (r"\.fc2\.", ".down_proj.")]
    if is_vit:
        names += [(r"\.norm1\.", ".layernorm_before."), (r"\.norm2\.", ".layernorm_after.")]
        names += [(r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense.")]
    renamed: Weights = {}
    for name, tensor in weights.items():
        for pattern, theirs in names:
            name = re.sub(pattern, theirs, name)
        if name.startswith(("decoder", "rope")) or name.endswith("bias_mask") or (is_vit and "mask_token" in name):
            continue
        if ".attn.qkv." not in name:
            renamed[name] = tensor
            continue
        for part, word in zip(tensor.chunk(3), ("query", "key", "value"), strict=True):
            theirs = f".attention.{word[0]}_proj." if is_third else f".attention.attention.{word}."
            if not (is_third and word == "key" and name.endswith("bias")):  # it has none
                renamed[name.replace(".attn.qkv.", theirs)] = part.contiguous()
    side = weights["patch_embed.proj.weight"].shape[-1]
    return renamed, {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "patch_size": side}


def features(kind: str, weights: Weights, rgb: Tensor) -> Tensor:
    """The `[CLS]` token behind the last norm, [B, D], for RGB in [0, 1]."""
    side = weights["patch_embed.proj.weight"].shape[-1]
    pixels = F.conv2d((rgb - MEAN) / STD, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], side)
    height, width = pixels.shape[-2:]
    tokens = torch.cat([weights["cls_token"].expand(len(rgb), -1, -1), pixels.flatten(2).mT], 1)
    tokens = tokens + weights.get("pos_embed", torch.zeros(()))
    extra = weights.get("register_tokens", weights.get("storage_tokens"))
    if extra is not None:
        tokens = torch.cat([tokens[:, :1], extra.expand(len(rgb), -1, -1), tokens[:, 1:]], 1)
    rope = _rope(height, width) if kind == "dinov3" else None
    epsilon = 1e-5 if kind == "dinov3" else 1e-6
    for block in (f"blocks.{number}" for number in range(DEPTH)):
        own = {name.removeprefix(f"{block}."): value for name, value in weights.items() if name.startswith(f"{block}.")}
        normed = F.layer_norm(tokens, (WIDTH,), own["norm1.weight"], own["norm1.bias"], epsilon)
        tokens = tokens + own.get("ls1.gamma", torch.ones(())) * _attended(normed, own, rope)
        normed = F.layer_norm(tokens, (WIDTH,), own["norm2.weight"], own["norm2.bias"], epsilon)
        hidden = F.gelu(F.linear(normed, own["mlp.fc1.weight"], own["mlp.fc1.bias"]))
        tokens = tokens + own.get("ls2.gamma", torch.ones(())) * F.linear(
            hidden, own["mlp.fc2.weight"], own["mlp.fc2.bias"]
        )
    return F.layer_norm(tokens, (WIDTH,), weights["norm.weight"], weights["norm.bias"], epsilon)[:, 0]


def _attended(tokens: Tensor, own: Weights, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    bias = own["attn.qkv.bias"] * own.get("attn.qkv.bias_mask", torch.ones(()))
    joined = F.linear(tokens, own["attn.qkv.weight"], bias)
    query, key, value = joined.view(*tokens.shape[:2], 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
    if rope is not None:
        query, key = (_turned(part, *rope) for part in (query, key))
    weights = (query @ key.mT / math.sqrt(WIDTH // HEADS)).softmax(-1)
    return F.linear((weights @ value).transpose(1, 2).flatten(2), own["attn.proj.weight"], own["attn.proj.bias"])


def _rope(height: int, width: int) -> tuple[Tensor, Tensor]:
    """DINOv3's rotary embedding: sine and cosine, [patches, width of a head]."""
    quarter = WIDTH // HEADS // 4
    periods = 100 ** (torch.arange(quarter) / quarter)
    rows, columns = ((torch.arange(count) + 0.5) / count * 2 - 1 for count in (height, width))
    places = torch.cartesian_prod(rows, columns)
    angles = (2 * math.pi * places[:, :, None] / periods).flatten(1).tile(2)
    return angles.sin(), angles.cos()


def _turned(part: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
    first, patches = part[..., : -len(sine), :], part[..., -len(sine) :, :]
    low, high = patches.chunk(2, -1)
    return torch.cat([first, patches * cosine + torch.cat([-high, low], -1) * sine], -2)
