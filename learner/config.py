"""Every setting of a learner in one tree, and the presets to begin from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from learner.adapt.config import AdaptConfig
from learner.adapt.forgetting import ForgettingConfig
from learner.errors import SettingsError
from learner.guard import GuardConfig
from learner.memory.config import MemoryConfig
from learner.memory.holdout import MAX_SHARE
from learner.networks.encoder import EncoderConfig
from learner.objectives.contract import Objective, ObjectiveConfig
from learner.objectives.ntxent import NTXent, NTXentConfig
from learner.pacing import PacingConfig
from learner.schedule import ScheduleConfig
from learner.views.contract import ViewsConfig
from learner.views.default import DefaultViews


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """The settings that decide the weights: the same recording, settings and seed give the same ones."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    objective: ObjectiveConfig = field(default_factory=NTXentConfig)
    views: ViewsConfig = field(default_factory=DefaultViews)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    pacing: PacingConfig = field(default_factory=PacingConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    forgetting: ForgettingConfig = field(default_factory=ForgettingConfig)
    fork: str | None = None
    """A run directory: start from its newest weights and memory. Settings that are not given are those of that run."""
    holdout: float = 0.0
    """Share of the pairs that are never trained on, 0 to 0.5, for the probe of the stream: whole stretches, gaps included."""
    seed: int = 0
    """Seed of the weights, the views, the reservoir and the stretches that are held out."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the backbone; bfloat16 pays on a GPU only."""
    max_refused_steps: int = 3
    """Refused steps in a row after which the learner stops."""

    def __post_init__(self) -> None:
        takes = [kind.name for kind in self.objective.takes]
        if self.views_name not in takes:
            raise SettingsError(
                f"objective {self.objective.name} cannot take views {self.views_name}: choose --views {' or '.join(takes)}"
            )
        if not 0 <= self.seed < 1 << 64:
            raise SettingsError(f"seed must be a whole number within [0, 2**64), got {self.seed}")
        if self.max_refused_steps < 1:
            raise SettingsError(f"max_refused_steps must be at least 1, got {self.max_refused_steps}")
        if not 0 <= self.holdout <= MAX_SHARE:
            raise SettingsError(f"holdout must be 0 to {MAX_SHARE}, got {self.holdout}")
        if self.memory.fresh_capacity < self.pacing.batch_size:
            raise SettingsError(
                f"memory.fresh_capacity {self.memory.fresh_capacity} must hold at least one batch of {self.pacing.batch_size}"
            )
        if self.memory.clip < self.objective.clip:
            raise SettingsError(
                f"objective {self.objective.name} learns from {self.objective.clip} consecutive pairs, and memory keeps "
                f"{self.memory.clip} together: --memory.clip {self.objective.clip}"
            )
        if self.pacing.batch_size < self.memory.clip:
            raise SettingsError(
                f"pacing.batch_size {self.pacing.batch_size} must hold at least one clip of {self.memory.clip} pairs: raise it, "
                "or lower --memory.clip"
            )
        self.check_fresh(1)

    def check_fresh(self, processes: int) -> None:
        """Raise SettingsError if the fresh queue of a process cannot fill a batch, because the clip that it lacks has no room."""
        batch_size, least = self.pacing.batch_size, processes * (self.memory.clip - 1) + self.pacing.batch_size
        if self.memory.fresh_capacity < least:
            raise SettingsError(
                f"memory.fresh_capacity {self.memory.fresh_capacity} must hold a batch of {batch_size} while a clip of "
                f"{self.memory.clip} pairs arrives{' in each process' if processes > 1 else ''}: --memory.fresh-capacity {least}"
            )

    @property
    def crops(self) -> ViewsConfig:
        """The views that the objective gets: the chosen ones, or those that it takes by itself."""
        return self.objective.default_views() if isinstance(self.views, DefaultViews) else self.views

    @property
    def views_name(self) -> str:
        """The kind of these views, as `--views` calls it."""
        return self.objective.views_name if isinstance(self.views, DefaultViews) else self.views.name


SIZES = {
    "cpu": LearnerConfig(
        encoder=EncoderConfig(
            backbone="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=96, depth=3, heads=3
        ),
        memory=MemoryConfig(capacity=2048, fresh_capacity=512, canvas=(120, 160)),
        pacing=PacingConfig(replay_ratio=16.0, batch_size=128),
        schedule=ScheduleConfig(learning_rate=1e-3, warmup_steps=50),
    ),
    "gpu": LearnerConfig(precision="bfloat16"),
}
"""The presets, without an objective. `cpu`: a small ViT that two cores train in minutes; `docs/log.md` has the trials behind the
numbers. `gpu`: DeiT-S, with the numbers of the original experiment, except that the constant schedule of a stream replaces its
nightly cosine. Each objective and each kind of views has its own numbers for both."""


def preset(
    size: str, objective: type[Objective[Any]] | None = None, views: type[ViewsConfig] | None = None
) -> LearnerConfig:
    """Return the settings of a size, an objective and its views, each with their numbers for this size.

    None takes the objective that learns most on a stream (`docs/learning.md`), and the views that an objective takes by itself.
    """
    settings = (objective or NTXent).settings.for_preset(size)
    own = isinstance(settings, ViewsConfig)
    if views is None or (isinstance(settings, views) if own else views is settings.takes[0]):
        chosen = DefaultViews() if own else settings.default_views(size)
    else:
        chosen = views.for_preset(size)
    memory = replace(SIZES[size].memory, clip=settings.clip)
    return replace(SIZES[size], objective=settings, views=chosen, memory=memory)


def size_of(config: LearnerConfig) -> str:
    """Return the size of the preset that these settings differ least from: a run does not remember by which it was begun."""
    kind = type(config.objective).objective
    return min(SIZES, key=lambda size: len(differences(config, preset(size, kind))))


PRESETS = {size: preset(size) for size in SIZES}
"""Settings to begin from, by the name of their size."""


def to_plain(config: LearnerConfig) -> dict[str, Any]:
    """Return the settings as nested dictionaries; those of objective and views begin with their names, memory has all numbers."""
    plain = asdict(config)
    plain["memory"] |= asdict(config.memory.numbers)
    return plain | {name: {"name": getattr(config, name).name} | plain[name] for name in ("objective", "views")}


def differences(ours: LearnerConfig, theirs: LearnerConfig) -> list[str]:
    """Return the settings in which two configurations differ, as `name: ours, theirs`.

    Of different objectives or views, settings that only one of them has are left out.
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
