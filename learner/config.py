"""Every setting of a learner in one tree, and the presets to begin from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from learner.encoder import EncoderConfig
from learner.errors import SettingsError
from learner.memory import MemoryConfig
from learner.objectives.babyagent import BabyAgentConfig
from learner.pacing import PacingConfig
from learner.schedule import ScheduleConfig
from learner.views import Augmentation


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """What decides the weights: the same recording, settings and seed give the same ones."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    objective: BabyAgentConfig = field(default_factory=BabyAgentConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    pacing: PacingConfig = field(default_factory=PacingConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    seed: int = 0
    """Seeds the weights, the views and the reservoir."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the backbone; bfloat16 pays on a GPU only."""
    most_bad_steps: int = 3
    """Steps in a row whose loss is not a number after which the learner stops."""

    def __post_init__(self) -> None:
        if self.memory.fresh_capacity < self.pacing.batch_size:
            raise SettingsError(
                f"memory.fresh_capacity {self.memory.fresh_capacity} must hold at least one batch of {self.pacing.batch_size}"
            )


def _cpu() -> LearnerConfig:
    """A small ViT that two cores train in minutes; `docs/log.md` has the trials behind the numbers."""
    return LearnerConfig(
        encoder=EncoderConfig(
            backbone="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=96, depth=3, heads=3
        ),
        objective=BabyAgentConfig(
            crops=4,
            attention_size=48,
            teacher_size=32,
            student_size=24,
            window_sigmas=0.45,
            smallest_window=0.25,
            student_scale=(0.6, 1.0),
            prototypes=256,
            hidden=256,
            bottleneck=64,
            student_temperature=0.1,
            teacher_temperature=0.02,
            centring="sinkhorn",
            repulsion=0.0,
            teacher_momentum=0.99,
            teacher_augmentation=Augmentation(blur=0.0),
            student_augmentation=Augmentation(blur=0.0, solarise=0.1),
        ),
        memory=MemoryConfig(capacity=2048, fresh_capacity=512, canvas=(120, 160)),
        pacing=PacingConfig(replay_ratio=16.0, batch_size=128),
        schedule=ScheduleConfig(learning_rate=1e-3, warmup_steps=50),
    )


def _babyagent() -> LearnerConfig:
    """DeiT-S with the seed's numbers, for a GPU; a stream's constant schedule in place of the nightly cosine."""
    return LearnerConfig(precision="bfloat16")


PRESETS = {"cpu": _cpu(), "babyagent": _babyagent()}
"""`cpu`: a small ViT for two cores. `babyagent`: DeiT-S with the seed's numbers, for a GPU."""


def differences(ours: object, theirs: object, prefix: str = "") -> list[str]:
    """The settings in which two configurations of one kind differ, as `name: ours, theirs`."""
    found: list[str] = []
    for spec in dataclasses.fields(ours):  # type: ignore[arg-type]
        mine, yours = getattr(ours, spec.name), getattr(theirs, spec.name)
        if dataclasses.is_dataclass(mine):
            found += differences(mine, yours, f"{prefix}{spec.name}.")
        elif mine != yours:
            found.append(f"{prefix}{spec.name}: {mine!r}, {yours!r}")
    return found
