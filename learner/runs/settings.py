"""The settings of a run, read back from its `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from learner import legacy
from learner.config import LearnerConfig, differences
from learner.errors import SettingsError
from learner.objectives.table import OBJECTIVES, VIEWS
from learner.views.default import DefaultViews

_T = TypeVar("_T")


def from_plain(plain: object) -> LearnerConfig:
    """Convert JSON values that `learner.config.to_plain` made. Raises ValueError or SettingsError for anything else."""
    settings = msgspec.convert(legacy.renamed(plain, legacy.SETTINGS), dict[str, Any])
    objective, views = settings.pop("objective", None), settings.pop("views", {"name": DefaultViews.name})
    return replace(
        msgspec.convert(settings, LearnerConfig),
        objective=_convert(objective, {name: kind.settings for name, kind in OBJECTIVES.items()}, "objective"),
        views=_convert(views, VIEWS, "views"),
    )


def _convert(plain: Any, kinds: Mapping[str, type[_T]], what: str) -> _T:
    """Convert the settings of one of these kinds, which `plain` names."""
    name = plain.get("name") if isinstance(plain, dict) else None
    if not isinstance(name, str) or name not in kinds:
        raise ValueError(f"its {what} must be one of {', '.join(kinds)}, got {name!r}")
    return msgspec.convert(plain, kinds[name])


def settings_of(run: Path) -> LearnerConfig:
    """Return the settings that the run in this folder was made with. Raises SettingsError."""
    path = run / "config.json"
    try:
        return from_plain(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError, SettingsError) as error:
        raise SettingsError(f"{path} cannot be read as a run's settings ({error}): choose another --run-dir") from error


def require_same(run: Path, config: LearnerConfig) -> None:
    """Raise SettingsError if the run in this folder was made with other settings."""
    changed = differences(config, settings_of(run))
    if changed:
        shown = "; ".join(changed[:4]) + ("; ..." if len(changed) > 4 else "")
        raise SettingsError(
            f"--run-dir {run} was made with other settings (now, then: {shown}): "
            "choose another --run-dir, or give the same settings to go on"
        )
