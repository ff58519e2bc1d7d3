"""What a run started from: `start.json` in its folder, written before its first commit, and the same in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learner.runs.reading import Line, read_object
from stream.fsync import replace_file

START = "start.json"
START_WEIGHTS = "start.safetensors"
"""The backbone that a run started from, for the probe of the stream; only where pairs are held out."""
RANDOM: Line = {"from": "random"}
_NAMED = 6


def write_start(run: Path, start: Mapping[str, Any]) -> None:
    """Write what a run starts from. Raises OSError."""
    replace_file(run / START, (json.dumps(start, indent=2) + "\n").encode())


def read_start(run: Path) -> Line:
    """Return what a run started from; runs of earlier versions, without the file, started at random."""
    return read_object(run / START) or RANDOM


def start_words(start: Mapping[str, Any] | None) -> str:
    """Return in one line what a run started from."""
    start = start or RANDOM
    name, digest = str(start.get("name")), str(start.get("sha256"))[:12]
    if start.get("from") == "weights":
        return f"{start.get('backbone')} from {name} (sha256 {digest})"
    if start.get("from") == "run":
        return f"{name} at step {start.get('step')} with {start.get('pairs')} pairs (checkpoint sha256 {digest})"
    return "random weights"


def start_notes(start: Mapping[str, Any]) -> list[str]:
    """Return what a person should know about how weights were taken over, a sentence each."""
    surplus, resized = (list(map(str, start.get(key) or ())) for key in ("surplus", "resized"))
    notes = [f"the start is {start_words(start)}"]
    if start.get("mean"):
        mean, std = (" ".join(f"{value:g}" for value in start[key]) for key in ("mean", "std"))
        notes.append(f"its pixels: RGB in 0 to 1, minus {mean}, over {std}; another --encoder.backbone may have others")
    if heads := start.get("unstated_heads"):
        notes.append(
            f"its number of attention heads stands nowhere: {heads} are taken, another number is --encoder.heads"
        )
    if surplus:
        more = f" and {len(surplus) - _NAMED} more" if len(surplus) > _NAMED else ""
        notes.append(f"not used of the file: {', '.join(surplus[:_NAMED])}{more}")
    if resized:
        notes.append(f"resized: {'; '.join(resized)}")
    return notes
