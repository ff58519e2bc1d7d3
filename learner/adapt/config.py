"""The settings of an adaptation, and the plans that `--adapt` chooses. Pure.

The constant rate, weight decay and EMA are those of DINOv3's last phase (Siméoni et al. 2025, arXiv:2508.10104; rate 3e-5, decay
0.04, EMA 0.999, layer decay 0.98). Low-rank corrections beside a last block that trains whole are ExPLoRA's (Khanna et al. 2024,
arXiv:2406.10973). The other numbers are choices. All are meant for large networks, for which no trial has compared them with
others yet; the small one of preset `cpu` learned more at a rate of 1e-3 (docs/adapting.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from learner.bounds import Bound, Count, NotNegative, Positive, PositiveShare, check_bounds

Steps = Annotated[int, Bound(ge=0)]


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """What of the encoder trains, how fast, and what holds it to its start; `--adapt` chooses the numbers of a plan."""

    plan: Literal["off", "last", "lora", "full"] = "off"
    """Weights of the encoder that train. off and full: all; last: those of the last blocks; lora: those of the last blocks, and
    low-rank corrections of the matrices in the others."""
    blocks: Count = 1
    """Last blocks that train whole, for last and lora; of a convolutional backbone, timm's layers."""
    rank: Count = 8
    """Rank of a correction, for lora; a matrix that is narrower than twice of it stays as it is."""
    strength: Positive = 1.0
    """Factor of a correction (alpha / rank of the LoRA paper)."""
    learning_rate: float | None = None
    """Learning rate of the encoder's last layer; None: schedule.learning_rate, which is that of the heads."""
    layer_decay: PositiveShare = 1.0
    """Factor of the learning rate from each layer to the one before it."""
    heads_alone_steps: Steps = 0
    """First steps, in which only what lies behind the encoder trains: a random head would spoil the encoder."""
    anchor_features: NotNegative = 0.0
    """Weight of the distance of features of whole images from those of the start, 1 - cosine."""
    anchor_patches: NotNegative = 0.0
    """Weight of the distance of the Gram matrix of an image's patches from that of the start (DINOv3)."""
    anchor_pairs: Count = 16
    """Pairs of a batch, over all processes, on which both distances are measured."""

    def __post_init__(self) -> None:
        check_bounds(self, "adapt")
        if self.learning_rate is not None:
            check_bounds(_Rate(self.learning_rate), "adapt")

    @property
    def changes_nothing(self) -> bool:
        """Whether the encoder trains as without these settings."""
        plain = AdaptConfig(blocks=self.blocks, rank=self.rank, strength=self.strength, anchor_pairs=self.anchor_pairs)
        return self == plain

    @property
    def is_anchored(self) -> bool:
        """Whether a frozen copy of the start is a second teacher."""
        return self.anchor_features > 0 or self.anchor_patches > 0


@dataclass(frozen=True)
class _Rate:
    learning_rate: Positive


_ALL = {"anchor_features": 1.0, "anchor_patches": 1.0}
_PLANS: Mapping[str, Mapping[str, Any]] = {
    "last": {"blocks": 2, "learning_rate": 1e-4},
    "lora": {"blocks": 1, "learning_rate": 1e-4, "layer_decay": 0.98},
    "full": {"learning_rate": 3e-5, "layer_decay": 0.9},
}
PLANS = tuple(_PLANS)
"""What `--adapt` takes."""
_SIZES: Mapping[str, Mapping[str, Any]] = {
    "cpu": {"heads_alone_steps": 100, "anchor_pairs": 16},
    "gpu": {"heads_alone_steps": 1000, "anchor_pairs": 32},
}
PATIENCE_PROBES = 2
"""Probes below the start, in a row, after which a run with a plan goes back (`learner.adapt.forgetting`)."""
MOMENTUM = {"cpu": 0.996, "gpu": 0.999}
"""The EMA of a teacher, by preset; one that follows faster than its preset's number is slowed down to it."""


def planned(plan: str, size: str) -> AdaptConfig:
    """Return the settings of a plan for the preset `size`."""
    chosen: dict[str, Any] = {"plan": plan, **_ALL, **_PLANS[plan], **_SIZES[size]}
    return AdaptConfig(**chosen)
