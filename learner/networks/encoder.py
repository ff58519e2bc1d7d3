"""The encoder: a vision transformer of timm, from pixels to features, and the attention of its `[CLS]` token.

Any timm model with a class token and an attention layer in its last block can be used. A hook behind the softmax of that layer
reads the attention map, so that models with rotary embeddings, query norms or registers need no code here; later layers are not
computed. The only cost is that this one layer runs unfused while the attention is read.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from learner.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The backbone, and the changes of its sizes."""

    backbone: str = "deit_small_patch16_224"
    """Any timm model with a [CLS] token (timm.list_models('vit*'))."""
    image_size: int | None = None
    """Side in pixels its position embedding is made for; None keeps the backbone's own."""
    patch_size: int | None = None
    """Side of a patch, pixels; None keeps the backbone's own."""
    embed_dim: int | None = None
    """Width of a token; None keeps the backbone's own."""
    depth: int | None = None
    """Number of blocks; None keeps the backbone's own."""
    heads: int | None = None
    """Attention heads a block; None keeps the backbone's own."""

    def __post_init__(self) -> None:
        sizes = (self.image_size, self.patch_size, self.embed_dim, self.depth, self.heads)
        if any(size is not None and size < 1 for size in sizes):
            raise SettingsError(f"encoder: sizes, depth and heads must be at least 1, got {self}")

    def timm_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for `timm.create_model`, which the model card of an export has too."""
        changed = {
            "img_size": self.image_size,
            "patch_size": self.patch_size,
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "num_heads": self.heads,
        }
        return {"num_classes": 0} | {name: value for name, value in changed.items() if value is not None}


class Encoder(nn.Module):
    """Maps RGB in [0, 1], float [B, 3, H, W], to features [B, D]. H and W are any multiples of the patch size."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: Any = create_backbone(config)  # timm is untyped; nn.Module would hide its attributes
        self.dim: int = self.backbone.num_features
        self.patch_size: int = self.backbone.patch_embed.feat_ratio()  # pixels, behind a convolutional stem too
        norm = self.backbone.pretrained_cfg
        self.register_buffer("mean", torch.tensor(norm["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(norm["std"]).view(3, 1, 1), persistent=False)

    def forward(self, rgb: Tensor) -> Tensor:
        """Return the features as the backbone pools them, float [B, D]; mostly the `[CLS]` token after the last norm."""
        features: Tensor = self.backbone((rgb - self.mean) / self.std)
        return features

    @torch.no_grad()
    def attention(self, rgb: Tensor) -> Tensor:
        """Return the attention of `[CLS]` to the patches in the last block: float [B, heads, h, w], each map sums to 1."""
        weights = self._last_weights((rgb - self.mean) / self.std)
        # In float32 even where the backbone uses bfloat16: a position in bfloat16 would move a window by pixels.
        to_patches = weights[:, :, 0, self.backbone.num_prefix_tokens :].float()
        height, width = rgb.shape[-2] // self.patch_size, rgb.shape[-1] // self.patch_size
        maps = to_patches.reshape(*to_patches.shape[:2], height, width)
        return maps / maps.sum((-2, -1), keepdim=True)

    def require_sizes(self, settings: Any, *names: str) -> None:
        """Raise SettingsError if one of these sizes of images, in pixels, does not suit the backbone."""
        for name in names:
            if getattr(settings, name) % self.patch_size:
                raise SettingsError(
                    f"{settings.label}: {name} {getattr(settings, name)} must be a multiple of the patch size {self.patch_size}"
                )

    def _last_weights(self, normalised: Tensor) -> Tensor:
        """Return the output of the softmax in the attention of the last block: [B, heads, tokens, tokens]."""
        layer = self.backbone.blocks[-1].attn
        fused, layer.fused_attn = layer.fused_attn, False
        try:
            with layer.attn_drop.register_forward_hook(_stop_with_weights):
                self.backbone.forward_features(normalised)
        except _Seen as seen:
            return seen.weights
        finally:
            layer.fused_attn = fused
        raise AssertionError("the attention of the last block was not computed")


class _Seen(Exception):
    """Ends a forward pass as soon as the attention weights are known."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights


def _stop_with_weights(_module: nn.Module, _inputs: object, weights: Tensor) -> None:
    raise _Seen(weights)


def create_backbone(config: EncoderConfig) -> Any:
    """Return the timm model of `config` at its random start.

    Raises SettingsError if timm does not know it, cannot build it with these sizes, or it has no attention of a `[CLS]` token.
    """
    known = timm.list_models()
    if config.backbone.split(".")[0] not in known:
        longer = [name for name in known if name.startswith(config.backbone)]  # a name cut short is likely
        near = longer[:3] or difflib.get_close_matches(config.backbone, known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; timm.list_models('vit*') names some"
        raise SettingsError(f"timm knows no backbone {config.backbone!r}{hint}")
    try:
        backbone = timm.create_model(config.backbone, dynamic_img_size=True, **config.timm_arguments())
    except (TypeError, RuntimeError, AssertionError, ValueError) as error:
        raise SettingsError(
            f"backbone {config.backbone!r} cannot be built with {config.timm_arguments()}: it must be a vision transformer "
            f"that takes images of any size ({' '.join(str(error).split())})"
        ) from error
    layer = getattr(getattr(backbone, "blocks", [None])[-1], "attn", None)
    is_readable = hasattr(layer, "attn_drop") and hasattr(layer, "fused_attn")
    if getattr(backbone, "cls_token", None) is None or not is_readable:
        raise SettingsError(
            f"backbone {config.backbone!r} has no [CLS] token with attention in its last block, which the crops are guided by; "
            "take a vision transformer such as deit_small_patch16_224"
        )
    return backbone
