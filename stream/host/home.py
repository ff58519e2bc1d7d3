"""`~` in settings: shells leave it as it is in `--flag=~/x`, and nobody expands it in a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from stream.errors import ReportedError

Settings = TypeVar("Settings")


def expanded(path: Path) -> Path:
    """Return a path with the home directory for a `~` at its beginning; `~name` is left as it is.

    Raises ReportedError if there is no home directory.
    """
    if path.parts[:1] != ("~",):
        return path
    try:
        return Path.home().joinpath(*path.parts[1:])
    except RuntimeError as error:
        raise ReportedError(f"{path}: there is no home directory here: write the whole path") from error


def with_home(settings: Settings) -> Settings:
    """Return settings, a tree of dataclasses, in which every path is expanded."""
    changed = {}
    for field in dataclasses.fields(settings) if dataclasses.is_dataclass(settings) else ():
        now = getattr(settings, field.name)
        if (new := _expanded(now)) != now:
            changed[field.name] = new
    return dataclasses.replace(settings, **changed) if changed else settings  # type: ignore[type-var]


def _expanded(value: Any) -> Any:
    if isinstance(value, Path):
        return expanded(value)
    if isinstance(value, tuple) and any(isinstance(each, Path) for each in value):
        return tuple(_expanded(each) for each in value)
    return with_home(value) if dataclasses.is_dataclass(value) else value
