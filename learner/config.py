"""Every setting of a learner in one tree, and the presets to begin from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
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


_CPU = LearnerConfig(
    encoder=EncoderConfig(backbone="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=96, depth=3, heads=3),
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

PRESETS = {
    "cpu": _CPU,
    "contrastive": replace(_CPU, objective=ContrastiveConfig(**_SMALL_VIEWS, hidden=256, projection=64)),
    "babyagent": LearnerConfig(
        objective=BabyAgentConfig(centring="sinkhorn", repulsion=0.2, repelled_by="pairs", repulsion_temperature=0.1),
        precision="bfloat16",
    ),
}
"""`cpu`: a small ViT that two cores train in minutes; `docs/log.md` has the trials behind the numbers. `contrastive`: the same
with InfoNCE. `babyagent`: DeiT-S for a GPU, with the numbers of the original experiment, except those that left small networks
below random in k-NN: centring and repulsion are those of `cpu` (`docs/learning.md`), and the constant schedule of a stream
replaces the nightly cosine."""


def to_plain(config: LearnerConfig) -> dict[str, Any]:
    """Return the settings as nested dictionaries; those of the objective begin with its name."""
    plain = asdict(config)
    return plain | {"objective": {"name": config.objective.name} | plain["objective"]}


def differences(ours: LearnerConfig, theirs: LearnerConfig) -> list[str]:
    """Return the settings in which two configurations differ, as `name: ours, theirs`.

    Of different objectives, settings that only one of them has are left out.
    """
    others = dict(_by_name(to_plain(theirs)))
    both = ((name, mine, others.get(name, mine)) for name, mine in _by_name(to_plain(ours)))
    return [f"{name}: {mine!r}, {other!r}" for name, mine, other in both if mine != other]


def _by_name(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting with its whole name, such as `memory.capacity`."""
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _by_name(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
