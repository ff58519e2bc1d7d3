"""Every setting of a learner in one tree, and the presets to begin from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from learner.errors import SettingsError
from learner.guard import GuardConfig
from learner.memory.config import MemoryConfig
from learner.networks.encoder import EncoderConfig
from learner.objectives.babyagent import BabyAgentConfig
from learner.objectives.contract import ObjectiveConfig
from learner.objectives.contrastive import ContrastiveConfig
from learner.pacing import PacingConfig
from learner.schedule import ScheduleConfig
from learner.views.augment import Augmentation

OBJECTIVES = {kind.name: kind for kind in (BabyAgentConfig, ContrastiveConfig)}
"""The settings of each objective that a run may have, by its name."""


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """The settings that decide the weights: the same recording, settings and seed give the same ones."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    objective: ObjectiveConfig = field(default_factory=BabyAgentConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    pacing: PacingConfig = field(default_factory=PacingConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    seed: int = 0
    """Seed of the weights, the views and the reservoir."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the backbone; bfloat16 pays on a GPU only."""
    max_refused_steps: int = 3
    """Refused steps in a row after which the learner stops."""

    def __post_init__(self) -> None:
        if self.memory.fresh_capacity < self.pacing.batch_size:
            raise SettingsError(
                f"memory.fresh_capacity {self.memory.fresh_capacity} must hold at least one batch of {self.pacing.batch_size}"
            )


_SMALL_VIEWS: dict[str, Any] = {
    "crops": 4,
    "attention_size": 48,
    "teacher_size": 32,
    "student_size": 24,
    "window_sigmas": 0.45,
    "smallest_window": 0.25,
    "student_scale": (0.6, 1.0),
    "teacher_momentum": 0.99,
    "teacher_augmentation": Augmentation(blur=0.0),
    "student_augmentation": Augmentation(blur=0.0, solarise=0.1),
}


def _cpu() -> LearnerConfig:
    """Return a small ViT that two cores train in minutes; `docs/log.md` has the trials behind the numbers."""
    return LearnerConfig(
        encoder=EncoderConfig(
            backbone="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=96, depth=3, heads=3
        ),
        objective=BabyAgentConfig(
            **_SMALL_VIEWS,
            prototypes=256,
            hidden=256,
            bottleneck=64,
            student_temperature=0.1,
            teacher_temperature=0.02,
            centring="sinkhorn",
            repulsion=0.2,
            repelled_by="pairs",
            repulsion_temperature=0.1,
        ),
        memory=MemoryConfig(capacity=2048, fresh_capacity=512, canvas=(120, 160)),
        pacing=PacingConfig(replay_ratio=16.0, batch_size=128),
        schedule=ScheduleConfig(learning_rate=1e-3, warmup_steps=50),
    )


def _contrastive() -> LearnerConfig:
    """Preset `cpu` with the other objective."""
    return dataclasses.replace(_cpu(), objective=ContrastiveConfig(**_SMALL_VIEWS, hidden=256, projection=64))


def _babyagent() -> LearnerConfig:
    """DeiT-S for a GPU: the numbers of the original experiment, except those that left small networks below random in k-NN.

    So centring and the second term are those of preset `cpu` (`docs/learning.md`), and the constant schedule of a stream replaces
    the nightly cosine.
    """
    return LearnerConfig(
        objective=BabyAgentConfig(centring="sinkhorn", repulsion=0.2, repelled_by="pairs", repulsion_temperature=0.1),
        precision="bfloat16",
    )


PRESETS = {"cpu": _cpu(), "contrastive": _contrastive(), "babyagent": _babyagent()}
"""`cpu`: a small ViT for two cores; `contrastive`: the same, with InfoNCE.
`babyagent`: DeiT-S for a GPU, with the numbers of the original experiment where no measurement speaks against them."""


def to_plain(config: LearnerConfig) -> dict[str, Any]:
    """Return the settings as nested dictionaries; that of the objective has its name, too."""
    plain = dataclasses.asdict(config)
    return plain | {"objective": {"name": config.objective.name} | plain["objective"]}


def differences(ours: LearnerConfig, theirs: LearnerConfig) -> list[str]:
    """Return the settings in which two configurations differ, as `name: ours, theirs`."""
    return _differing(to_plain(ours), to_plain(theirs), "")


def _differing(ours: dict[str, Any], theirs: dict[str, Any], prefix: str) -> list[str]:
    """Of different objectives, settings that only one of them has are left out."""
    found: list[str] = []
    for name, mine in ours.items():
        yours = theirs.get(name, mine)
        if isinstance(mine, dict):
            found += _differing(mine, yours, f"{prefix}{name}.")
        elif mine != yours:
            found.append(f"{prefix}{name}: {mine!r}, {yours!r}")
    return found
