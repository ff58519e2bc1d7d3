"""Readers of the files of a run for its report: they leave out what is missing or damaged, and never raise an error for it."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from learner import legacy

Line = dict[str, Any]
Album = dict[str, NDArray[Any]]
"""Pictures of a run by name, as `learner.report.album` makes them."""
Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x and y of a line, float64 [n] each."""


def read_object(path: Path) -> Line | None:
    """Return the JSON object in a file; None if it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_lines(path: Path) -> list[Line] | None:
    """Return the objects in a .jsonl file, without lines that a crash has cut; None if the file is missing."""
    if not path.is_file():
        return None
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, RecursionError):
            lines.append(json.loads(text))
    return [legacy.line(line) for line in lines if isinstance(line, dict)]


def read_album(path: Path) -> Album:
    """Return the arrays of an album; empty if the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {legacy.ALBUM.get(name, name): array for name, array in arrays.items()}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}


def flat(settings: Line, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values of nested settings."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def by_encoder(probes: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    """Group the lines of probes by control set and encoder."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in probes:
        groups.setdefault((str(line.get("set")), str(line.get("encoder"))), []).append(line)
    return groups


def points(lines: Sequence[Line], name: str, over: str = "step") -> Points:
    """Return the steps, or another number `over` which to draw, and the values of `name`, from the lines that have both."""
    pairs = [(line[over], line[name]) for line in lines if is_number(line.get(over)) and is_number(line.get(name))]
    steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
    return steps, values


def is_number(value: object) -> TypeGuard[float]:
    """Return whether the value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
