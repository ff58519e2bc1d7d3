"""Checkpoints on disk: tensors as safetensors, the rest as JSON, never pickle, and never half a checkpoint.

A checkpoint is a folder written under a temporary name, synced, renamed, and only then pointed to by the file `latest`, which is
itself replaced atomically: whatever is killed, `latest` names a whole one. The last two are kept.
"""

from __future__ import annotations

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


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` (nested dicts and lists of tensors, arrays and JSON values) as checkpoint number `step`."""
    folder.mkdir(parents=True, exist_ok=True)
    target, draft = folder / f"step-{step:09d}", folder / f".draft-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    tensors: dict[str, Tensor] = {}
    (draft / "state.json").write_text(json.dumps(_strip(state, "", tensors)))
    save_file(tensors, draft / "tensors.safetensors")
    for path in (*draft.iterdir(), draft):
        _sync(path)
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    pointer = folder / ".latest"
    pointer.write_text(target.name)
    _sync(pointer)
    pointer.rename(folder / "latest")
    _sync(folder)
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, or None where there is none yet."""
    pointer = folder / "latest"
    return folder / pointer.read_text().strip() if pointer.is_file() else None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint. Raises LearnerError in one line where a file is missing or damaged."""
    try:
        tensors = load_file(path / "tensors.safetensors")
        state: dict[str, Any] = _restore(json.loads((path / "state.json").read_text()), tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise LearnerError(
            f"checkpoint {path} cannot be read ({error}); remove the folder to start from the one before"
        ) from error
    return state


def _strip(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Move tensors and arrays out of a nested state, leaving `{"$tensor": name}` or `{"$array": name}` in their places."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"$tensor": path}
    if isinstance(value, np.ndarray):
        tensors[path] = torch.from_numpy(np.ascontiguousarray(value)).clone()
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
    """Undo `_strip`."""
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
