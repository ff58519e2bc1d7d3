"""Checkpoints on disk: tensors as safetensors, the rest as JSON, never pickle, and never half a checkpoint.

Each is a folder `commit-NUMBER-step-STEP`, written under another name, synced, and renamed last: whatever is killed in
between, the folders of that name are whole, and the newest of them counts. The last two are kept. `SHA256SUMS` finds a
damaged disk (and `sha256sum -c` reads it).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from learner.errors import LearnerError

KEPT = 2
"""Checkpoints left on disk after a save."""

_TENSORS, _STATE, _SUMS = "tensors.safetensors", "state.json", "SHA256SUMS"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` (nested dicts and lists of tensors, arrays and JSON values), taken after `step`; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    before = _checkpoints(folder)
    number = _number(before[-1]) + 1 if before else 1
    draft, target = folder / ".draft", folder / f"commit-{number:06d}-step-{step}"
    shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
    draft.mkdir()
    tensors: dict[str, Tensor] = {}
    (draft / _STATE).write_text(json.dumps(_strip(state, "", tensors)))
    save_file(tensors, draft / _TENSORS)
    (draft / _TENSORS).chmod(0o644)  # safetensors writes for the owner alone; a backup reads as another user
    (draft / _SUMS).write_text(_sums(draft))
    for path in (*draft.iterdir(), draft):
        _sync(path)
    draft.rename(target)
    _sync(folder)
    for old in [*before, target][:-KEPT]:
        shutil.rmtree(old)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, or None where there is none yet."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint. Raises LearnerError in one line where a file is missing or damaged."""
    try:
        if (path / _SUMS).read_text() != _sums(path):
            raise ValueError(f"its files do not match {_SUMS}")
        tensors = load_file(path / _TENSORS)
        state: dict[str, Any] = _restore(json.loads((path / _STATE).read_text()), tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise LearnerError(f"checkpoint {path} is damaged ({error}): remove it to go on from the one before") from error
    return state


def _checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(folder.glob("commit-*-step-*"), key=_number)


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])


def _sums(folder: Path) -> str:
    """The lines that `sha256sum` would print."""
    lines = []
    for name in (_STATE, _TENSORS):
        with (folder / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def _strip(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Move tensors and arrays out of a nested state, leaving `{"$tensor": name}` or `{"$array": name}` in their places."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous()
        return {"$tensor": path}
    if isinstance(value, np.ndarray):
        tensors[path] = torch.from_numpy(np.ascontiguousarray(value))
        return {"$array": path}
    if isinstance(value, dict):
        # JSON has only string keys, the optimiser's state has integers: keep the pairs as they are.
        items = [[key, _strip(item, f"{path}/{key}", tensors)] for key, item in value.items()]
        return {"$dict": items}
    if isinstance(value, (list, tuple)):
        return [_strip(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo `_strip`; what was a tuple comes back as a list."""
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$array" in value:
        return tensors[value["$array"]].numpy()
    return {key: _restore(item, tensors) for key, item in value["$dict"]}


def _sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
