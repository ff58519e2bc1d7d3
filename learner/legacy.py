"""Names that files of earlier versions have, translated in one place when such a file is read."""

from __future__ import annotations

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


def renamed(plain: Any, names: dict[str, str]) -> Any:
    """`plain`, JSON values, with the keys of all its objects translated by `names`."""
    if isinstance(plain, dict):
        return {names.get(key, key): renamed(value, names) for key, value in plain.items()}
    return [renamed(value, names) for value in plain] if isinstance(plain, list) else plain
