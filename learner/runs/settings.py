"""The settings of a run, read back from its `config.json`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from learner import legacy
from learner.config import LearnerConfig, differences
from learner.errors import SettingsError
from learner.objectives.foreign import objective_named, views_named


def from_plain(plain: object) -> LearnerConfig:
    """Convert JSON values that `learner.config.to_plain` made. Raises ValueError or SettingsError for anything else."""
    settings = msgspec.convert(legacy.renamed(plain, legacy.SETTINGS), dict[str, Any])
    chosen: dict[str, Any] = {}
    objective = settings.pop("objective", legacy.OBJECTIVE)
    chosen["objective"] = msgspec.convert(objective, objective_named(_name(objective)).settings)
    if "views" in settings:
        views = settings.pop("views")
        chosen["views"] = msgspec.convert(views, views_named(_name(views)))
    config = msgspec.convert(settings, LearnerConfig)
    return replace(config, memory=config.memory.by_name(), **chosen)


def _name(plain: Any) -> str:
    return str(plain.get("name") if isinstance(plain, dict) else None)


def settings_of(run: Path) -> LearnerConfig:
    """Return the settings that the run in this folder was made with. Raises SettingsError."""
    path = run / "config.json"
    if not path.is_file():
        raise SettingsError(
            f"{run} is no run, it has no config.json: `python -m learner runs FOLDER` lists those in a folder"
        )
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
