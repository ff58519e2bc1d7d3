"""Settings of the learner for benches: presets with some settings replaced, and the numbers of the original experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any

from benchmarks.shared.bounds import SomeOf
from learner.config import PRESETS as SIZES
from learner.config import LearnerConfig, preset
from learner.objectives.babyagent import BabyAgentConfig
from learner.objectives.table import OBJECTIVES
from learner.views.default import DefaultViews
from learner.views.guided import GuidedConfig

PRESETS = SIZES | {name: preset("cpu", kind) for name, kind in OBJECTIVES.items()}
"""The presets of the learner, and each objective at the size of `cpu`, by its name."""
_NUMBERS = (
    "student_temperature",
    "teacher_temperature",
    "centring",
    "repulsion",
    "repelled_by",
    "repulsion_temperature",
    "teacher_momentum",
)


def _presets(suits: Callable[[LearnerConfig], bool]) -> SomeOf:
    return SomeOf([name for name, config in PRESETS.items() if suits(config)])


Preset = Annotated[str, _presets(lambda config: True)]
GuidedPreset = Annotated[str, _presets(lambda config: isinstance(config.crops, GuidedConfig))]
"""The name of a preset whose views are guided by attention."""
BabyAgentPreset = Annotated[str, _presets(lambda config: isinstance(config.objective, BabyAgentConfig))]
"""The name of a preset whose objective is `babyagent`."""


SMALL_NETWORK = {"encoder.embed_dim": 64, "encoder.depth": 2, "encoder.heads": 2, "crops.crops": 2}
"""Settings of a network that is small enough for benches that train many times."""


def unchanged(config: LearnerConfig) -> LearnerConfig:
    """Return the same configuration."""
    return config


def changed(config: LearnerConfig, settings: Mapping[str, Any]) -> LearnerConfig:
    """Return the configuration with some settings replaced, by their dotted names: `{"crops.crops": 2}`.

    `crops` are the views, whose settings some objectives have in their own. A setting whose new value is None is not replaced.
    """
    views = "objective" if isinstance(config.views, DefaultViews) else "views"
    for name, value in settings.items():
        first, *rest = name.split(".")
        config = config if value is None else _replaced(config, [views if first == "crops" else first, *rest], value)
    return config


def spent_over(config: LearnerConfig, steps: int, pairs: int) -> LearnerConfig:
    """Return the configuration with another replay ratio: `pairs` received pairs pay for `steps` steps."""
    # Half a pair less than there are: the last step must not wait for a rounding error.
    ratio = config.pacing.batch_size * steps / (pairs - 0.5)
    return changed(config, {"pacing.replay_ratio": ratio, "pacing.max_owed_steps": 10**6})


def _replaced(config: Any, path: Sequence[str], value: Any) -> Any:
    inner = value if len(path) == 1 else _replaced(getattr(config, path[0]), path[1:], value)
    return replace(config, **{path[0]: inner})


def with_original_numbers(config: LearnerConfig) -> LearnerConfig:
    """Return the configuration with the objective of the original experiment and its numbers; views and network stay.

    The numbers are the temperatures, centring, repulsion, EMA rate and learning rate.
    """
    original, views = BabyAgentConfig(), config.crops
    if not isinstance(config.objective, BabyAgentConfig):
        own = {f"objective.{one.name}": getattr(views, one.name) for one in fields(GuidedConfig)}
        config = changed(replace(config, objective=PRESETS["babyagent"].objective, views=DefaultViews()), own)
    numbers = {f"objective.{name}": getattr(original, name) for name in _NUMBERS}
    return changed(config, numbers | {"schedule.learning_rate": 5e-4})
