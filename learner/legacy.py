"""Names that files of earlier versions have, translated in one place when such a file is read."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

SETTINGS = {
    "most_bad_steps": "max_refused_steps",
    "most_owed_steps": "max_owed_steps",
    "most_rollbacks": "max_rollbacks",
    "most_crop_cosine": "max_crop_cosine",
    "least_teacher_information": "min_teacher_information",
    "least_student_information": "min_student_information",
}
"""Settings of 0.1.0 in `config.json`, TOML files and flags, and their names today."""
PROBES = {"who": "encoder"}
"""Keys of a line of `probes.jsonl` in 0.1.0, and their names today."""
ALBUM = {
    "high_loss": "high_priority",
    "low_loss": "low_priority",
    "looks_left": "viewed_left",
    "looks_right": "viewed_right",
}
"""Arrays of `album.npz` in 0.1.0, and their names today."""
STATE = {
    "kl": "priority",
    "shunned": "quarantine",
    "untrained": "dropped_fresh",
    "malformed": "undecodable",
    "bad_steps": "refused_in_a_row",
}
"""Keys in the state of a checkpoint of 0.1.0, and their names today."""

OBJECTIVE = {"name": "babyagent"}
"""The objective of a run whose settings name none."""
PRESETS = {"babyagent": ("gpu", "babyagent"), "contrastive": ("cpu", "contrastive")}
"""Presets of 0.1.0, and the size and objective that they are today."""


def preset(name: str, objective: str | None) -> tuple[str, str | None]:
    """Return size and objective for the name of a preset and an objective that may be given; say what to type for an old name."""
    if name not in PRESETS:
        return name, objective
    size, own = PRESETS[name]
    if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun, the first one says it
        sys.stderr.write(f"--preset {name} is called --preset {size} --objective {own} now\n")
    return size, objective or own


def renamed(plain: Any, names: Mapping[str, str]) -> Any:
    """Translate the keys of all objects in `plain`, nested JSON values, by `names`."""
    if isinstance(plain, dict):
        return {names.get(key, key): renamed(value, names) for key, value in plain.items()}
    return [renamed(value, names) for value in plain] if isinstance(plain, list) else plain


def state(saved: dict[str, Any]) -> dict[str, Any]:
    """Translate the state of a checkpoint, whose networks called a projector a head, and whose centre was no part yet."""
    translated: dict[str, Any] = renamed(saved, STATE)
    for holder in (translated, *translated.get("snapshots", ())):
        if "objective" in holder:
            holder["objective"] = _networks(holder["objective"])
    return translated


def _networks(saved: Mapping[str, Any]) -> dict[str, Any]:
    networks = {re.sub(r"^(student|teacher)\.head\.", r"\1.projector.", name): value for name, value in saved.items()}
    # Only where prototypes are beside it: an objective of somebody else may have a centre of its own.
    if "centre" in networks and "student.projector.prototypes" in networks:
        networks["centre.mean"] = networks.pop("centre")
    return networks


def line(saved: dict[str, Any]) -> dict[str, Any]:
    """Translate a line of `probes.jsonl` or `steps.jsonl`; the latter had the priority only as the gauge `kl`."""
    translated: dict[str, Any] = renamed(saved, PROBES)
    return {"priority": saved["kl"], **translated} if "kl" in saved else translated
