"""Checkpoints: the state of a learner in a folder, tensors as safetensors and the rest as JSON, never pickle.

`SHA256SUMS` shows a damaged disk (`sha256sum -c` reads it). It is written last: an incomplete folder has none and is not used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from errno import ENOSPC
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from buffer.patience import Patience
from learner import legacy
from learner.errors import LearnerError
from stream.fsync import sync_path

log = logging.getLogger(__name__)

FOLDER = r"^commit-[0-9]{6,18}-step-[0-9]{1,18}\Z"
"""The pattern of the name of a checkpoint."""
_TENSORS, _STATE, _SUMS = "tensors.safetensors", "state.json", "SHA256SUMS"


class NoRoom(OSError):
    """The disk is full."""


class CheckpointFolder:
    """Holds the checkpoints of a run, each in a folder with its name. patience: decides how long to wait for a full disk."""

    def __init__(self, path: Path, patience: Patience | None = None) -> None:
        self._path = path
        self._patience = patience or Patience()

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a new checkpoint, once there is room for it; then it is durable. Raises OSError in one line."""
        if not self._path.parent.is_dir():
            raise OSError(f"{self._path.parent} has vanished while it was in use: bring it back, then start again")
        if not self._path.is_dir():
            self._path.mkdir()
            sync_path(self._path.parent)
        while True:
            try:
                save_checkpoint(self._path / name, state)
                return
            except NoRoom as problem:
                if not self._patience.wait(problem):
                    raise

    def load(self, name: str) -> dict[str, Any]:
        """Return the state of a checkpoint. Raises LearnerError in one line if a file is missing or damaged."""
        return load_checkpoint(self._path / name)

    def names(self) -> set[str]:
        """Return the names of all checkpoints, damaged ones included. Whatever else lies there is left alone."""
        return {entry.name for entry in self._entries() if re.match(FOLDER, entry.name) and entry.is_dir()}

    def is_taken(self, number: int) -> bool:
        """Return whether the name of a checkpoint of this number is in use, be it by a file or a link."""
        return any(entry.name.startswith(f"commit-{number:06d}-") for entry in self._entries())

    def is_whole(self, name: str) -> bool:
        """Return whether all files of a checkpoint are undamaged."""
        try:
            return (self._path / name / _SUMS).read_text() == _sums(self._path / name)
        except (OSError, ValueError):
            return False

    def is_unfinished(self, name: str) -> bool:
        """Return whether a process was killed while it wrote this checkpoint: `SHA256SUMS` comes last."""
        sums = self._path / name / _SUMS
        return not sums.exists() or sums.stat().st_size == 0

    def remove(self, name: str) -> None:
        """Remove a checkpoint, if it is a folder and no link. What cannot be removed is logged."""
        path = self._path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, onerror=lambda _call, at, error: log.warning("%s cannot be removed: %s", at, error[1]))

    def _entries(self) -> list[Path]:
        return list(self._path.iterdir()) if self._path.is_dir() else []


def order_of(folder: str) -> tuple[int, int]:
    """Return number and step in the name of a checkpoint: newer ones are larger."""
    _, number, _, step = folder.split("-")
    return int(number), int(step)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state`, nested dicts and lists of tensors, arrays and JSON values, to the new folder `path`; then it is durable.

    Raises OSError in one line if it cannot be written, NoRoom if the disk is full; then no part of it stays.
    """
    try:
        path.mkdir()
        _write(path, state)
        for written in (*path.iterdir(), path, path.parent):
            sync_path(written)
    except (OSError, SafetensorError) as error:
        reason = f"{path} cannot be written ({error}): make room on its disk, then start again"
        # An error of safetensors has its number in the text only.
        is_full = getattr(error, "errno", None) == ENOSPC or f"os error {ENOSPC}" in str(error)
        if not is_full:
            raise OSError(reason) from error
        shutil.rmtree(path, ignore_errors=True)
        raise NoRoom(reason) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state in the folder `path`. Raises LearnerError in one line if a file is missing or damaged."""
    try:
        if (path / _SUMS).read_text() != _sums(path):
            raise ValueError(f"its files do not match {_SUMS}")
        tensors = load_file(path / _TENSORS)
        state = _restore(json.loads((path / _STATE).read_text()), tensors)
        if not isinstance(state, dict):
            raise TypeError(f"{_STATE} is no object")
        return legacy.state(state)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise LearnerError(f"checkpoint {path} is damaged ({error})") from error


def _write(path: Path, state: dict[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    (path / _STATE).write_text(json.dumps(_strip(state, "", tensors)))
    save_file(tensors, path / _TENSORS)
    (path / _TENSORS).chmod(0o644)  # safetensors lets only the owner read; a backup may run as another user
    (path / _SUMS).write_text(_sums(path))


def _sums(folder: Path) -> str:
    """Return the lines that `sha256sum` would print."""
    lines = []
    for name in (_STATE, _TENSORS):
        with (folder / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def _strip(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Move tensors and arrays out of a nested state, and leave `{"$tensor": name}` or `{"$array": name}` in their places."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous()
        return {"$tensor": path}
    if isinstance(value, np.ndarray):
        tensors[path] = torch.from_numpy(np.ascontiguousarray(value))
        return {"$array": path}
    if isinstance(value, dict):
        # JSON has only string keys, and the state of the optimiser has integers: keep the items as pairs.
        items = [[key, _strip(item, f"{path}/{key}", tensors)] for key, item in value.items()]
        return {"$dict": items}
    if isinstance(value, (list, tuple)):
        return [_strip(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo `_strip`; a tuple comes back as a list."""
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$array" in value:
        return tensors[value["$array"]].numpy()
    return {key: _restore(item, tensors) for key, item in value["$dict"]}
