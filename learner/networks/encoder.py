"""The encoder: a backbone of timm, from pixels to features, its tokens, and the attention of its `[CLS]` token.

Any timm model can be used, a convolutional one too. What an objective or its views need and a backbone lacks is refused:
attention, for which it must have a class token and an attention layer in its last block, or tokens of some patches. A hook behind
the softmax of that layer reads the attention map, so that models with rotary embeddings, query norms or registers need no code
here; later layers are not computed. The only cost is that this one layer runs unfused while the attention is read.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from learner.errors import SettingsError
from learner.networks.norm import share_statistics

MAX_SIZES = {"image_size": 4096, "patch_size": 1024, "embed_dim": 16384, "depth": 256, "heads": 1024}
"""A file may claim any sizes, and each block takes memory before its tensors are seen. DINOv3 7B is 4096 wide, 40 deep."""


MIN_PIXELS = {"mean": 0.0, "std": 1e-3}
"""The least mean and standard deviation that pixels in [0, 1] may be normalised by; the most is 1."""
Channels = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The backbone, and the changes of its sizes."""

    backbone: str = "deit_small_patch16_224"
    """Any timm model (timm.list_models()); guided views need one with a [CLS] token."""
    weights: str | None = None
    """Weights to start from: a file or folder (timm, DINO, DINOv2, DINOv3, MAE, Hugging Face, an export) or timm:NAME. They
    decide backbone and sizes, where none are given (docs/adapting.md). None: a random start."""
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
    pool: Literal["token", "avg"] | None = None
    """Features of a transformer: its [CLS] token, or the mean of its patches; None keeps the backbone's own."""
    mean: Channels | None = None
    """What is subtracted from red, green and blue in [0, 1]; None takes what timm has for the backbone."""
    std: Channels | None = None
    """What they are divided by then; None takes what timm has for the backbone."""

    def __post_init__(self) -> None:
        for name, most in MAX_SIZES.items():
            if (size := getattr(self, name)) is not None and not 1 <= size <= most:
                raise SettingsError(f"encoder: {name} must be 1 to {most}, got {size}")
        for name, least in MIN_PIXELS.items():
            values = getattr(self, name)
            if values is not None and not all(least <= value <= 1 for value in values):
                raise SettingsError(f"encoder: {name} must be three numbers from {least:g} to 1, got {values}")

    def timm_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for `timm.create_model`, which the model card of an export has too."""
        changed = {
            "img_size": self.image_size,
            "patch_size": self.patch_size,
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "num_heads": self.heads,
            "global_pool": self.pool,
        }
        return {"num_classes": 0} | {name: value for name, value in changed.items() if value is not None}


NEEDS = {
    "attention": "the attention of a [CLS] token in the last block",
    "some tokens": "a backbone that can see some of its patches only",
    "masked attention": "a transformer whose attention can be masked",
}
EXAMPLES = ("deit_small_patch16_224", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224")


class Encoder(nn.Module):
    """Maps RGB in [0, 1], float [B, 3, H, W], to features [B, D]. H and W are any multiples of the patch size."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: Any = create_backbone(config)  # timm is untyped; nn.Module would hide its attributes
        self.dim: int = self.backbone.num_features
        self.prefix: int = getattr(self.backbone, "num_prefix_tokens", 0)  # tokens before those of the patches
        stem: Any = getattr(self.backbone, "patch_embed", None)
        self.patch_size: int = stem.feat_ratio() if hasattr(stem, "feat_ratio") else 1  # pixels; 1: images of any size
        share_statistics(self.backbone)
        norm = self.backbone.pretrained_cfg
        for name in MIN_PIXELS:
            values = getattr(config, name) or norm[name]
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, rgb: Tensor) -> Tensor:
        """Return the features as the backbone pools them, float [B, D]; mostly the `[CLS]` token after the last norm."""
        features: Tensor = self.backbone((rgb - self.mean) / self.std)
        return features

    @torch.no_grad()
    def attention(self, rgb: Tensor) -> Tensor:
        """Return the attention of `[CLS]` to the patches in the last block: float [B, heads, h, w], each map sums to 1."""
        weights = self._last_weights((rgb - self.mean) / self.std)
        # In float32 even where the backbone uses bfloat16: a position in bfloat16 would move a window by pixels.
        to_patches = weights[:, :, 0, self.prefix :].float()
        height, width = rgb.shape[-2] // self.patch_size, rgb.shape[-1] // self.patch_size
        maps = to_patches.reshape(*to_patches.shape[:2], height, width)
        return maps / maps.sum((-2, -1), keepdim=True)

    def tokens(self, rgb: Tensor, keep: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the features, [B, D], and the tokens of the patches, [B, T, D], in the order of lines of text.

        keep: int [B, n], the numbers of the patches that the backbone sees (`require("some tokens", ...)`); the tokens are then
        theirs. mask: bool [N, N], which tokens each of them all sees (`require("masked attention", ...)`).
        """
        masked = {} if mask is None else {"attn_mask": mask}
        with self._only(keep):
            found = self.backbone.forward_features((rgb - self.mean) / self.std, **masked)
        features: Tensor = self.backbone.forward_head(found, pre_logits=True)
        if found.ndim == 3:
            return features, found[:, self.prefix :]
        return features, found.flatten(2).mT if found.shape[1] == self.dim else found.flatten(1, 2)  # a map of channels

    @contextmanager
    def _only(self, keep: Tensor | None) -> Iterator[None]:
        """Let the backbone see only these patches inside the context: chosen where timm's dropout of patches would be."""
        layer, prefix = getattr(self.backbone, "patch_drop", None), self.prefix

        def kept(tokens: Tensor) -> Tensor:
            assert keep is not None
            chosen = tokens[:, prefix:].gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))
            return torch.cat([tokens[:, :prefix], chosen], 1)

        if keep is None:
            yield
        elif layer is not None:
            with layer.register_forward_hook(lambda _layer, _inputs, tokens: kept(tokens)):
                yield
        else:  # rotary embeddings are chosen too
            self.backbone.patch_drop = lambda tokens: (kept(tokens), keep)
            try:
                yield
            finally:
                self.backbone.patch_drop = None

    def require(self, need: str, who: str, instead: str = "") -> None:
        """Raise SettingsError if the backbone lacks what somebody needs, a key of NEEDS.

        who: begins the message. instead: flags that do without it.
        """
        layer = getattr(getattr(self.backbone, "blocks", [None])[-1], "attn", None)
        # One with a temperature is XCiT's, between channels.
        has_attention = (
            hasattr(layer, "attn_drop") and hasattr(layer, "fused_attn") and not hasattr(layer, "temperature")
        )
        has = {
            "attention": has_attention and self.prefix > 0 and getattr(self.backbone, "cls_token", None) is not None,
            "some tokens": hasattr(self.backbone, "patch_drop"),
            "masked attention": "attn_mask" in inspect.signature(self.backbone.forward_features).parameters,
        }
        if not has[need]:
            raise SettingsError(
                f"{who} needs {NEEDS[need]}, which backbone {self.config.backbone!r} lacks: "
                f"take one such as {', '.join(EXAMPLES)}{f', or {instead}' if instead else ''}"
            )

    def require_sizes(self, settings: Any, *names: str) -> None:
        """Raise SettingsError if one of these sizes of images, in pixels, does not suit the backbone."""
        for name in names:
            size = getattr(settings, name)
            if size % self.patch_size:
                raise SettingsError(
                    f"{settings.label}: {name} {size} must be a multiple of the patch size {self.patch_size}"
                )
            if self.patch_size == 1 and not self._takes(size):
                raise SettingsError(
                    f"{settings.label}: {name} {size} is no size of images that backbone {self.config.backbone!r} takes"
                )

    @torch.no_grad()
    def _takes(self, size: int) -> bool:
        was_training = self.training
        try:
            self.eval()(torch.zeros(1, 3, size, size, device=self.mean.device))
        except (AssertionError, RuntimeError, ValueError):
            return False
        finally:
            self.train(was_training)
        return True

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

    Raises SettingsError if timm does not know it or cannot build it with these sizes.
    """
    known = timm.list_models()
    if config.backbone.split(".")[0] not in known:
        longer = [name for name in known if name.startswith(config.backbone)]  # a name cut short is likely
        near = longer[:3] or difflib.get_close_matches(config.backbone, known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; timm.list_models('vit*') names some"
        raise SettingsError(f"timm knows no backbone {config.backbone!r}{hint}")
    try:
        try:
            return timm.create_model(config.backbone, dynamic_img_size=True, **config.timm_arguments())
        except TypeError as error:
            if "dynamic_img_size" not in str(error):
                raise
            return timm.create_model(config.backbone, **config.timm_arguments())  # such as a convolutional one
    except (TypeError, RuntimeError, AssertionError, ValueError) as error:
        raise SettingsError(
            f"backbone {config.backbone!r} cannot be built with {config.timm_arguments()}: leave some out, or take a vision "
            f"transformer ({' '.join(str(error).split())})"
        ) from error
