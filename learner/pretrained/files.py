"""Reads files of weights that nobody vouches for: safetensors, or `.pth` without any pickled code.

What a file says of its size is checked before a tensor is allocated: both formats are mapped into memory, and no tensor may be
larger than the bytes it lies in. Of a `.pth` only the tensors of the network are looked at, however deep they lie.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from learner.errors import SettingsError
from learner.pretrained.names import unwrapped
from stream.host.home import expanded

MAX_BYTES = 32 * 2**30
"""Largest file of weights: the largest DINOv3 has 27 GB."""
MAX_TENSORS = 20_000
"""Largest number of tensors in a file."""
MAX_NAME = 512
"""Longest name of a tensor, characters."""
MAX_TEXT_BYTES = 2**24
"""Largest JSON file beside weights, and the largest list of tensors in a `.pth`."""
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_PREPROCESSOR = "preprocessor_config.json"
_KINDS = (".safetensors", ".pth", ".pt", ".bin")
_MAX_TIED = 2
"""How many times the size of their file all tensors may have: tied weights lie in a `.pth` once, and are there twice."""


@dataclass(frozen=True)
class Found:
    """Files of weights, and what the JSON files beside them say."""

    paths: tuple[Path, ...]
    beside: Mapping[str, Any] = field(default_factory=dict)
    """A `config.json` of Hugging Face or timm, or a model card of ours."""
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
    """The `preprocessor_config.json` of Hugging Face."""

    def sha256(self) -> str:
        """Return the SHA-256 of the files, one after the other."""
        digest = hashlib.sha256()
        for path in self.paths:
            with path.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        return digest.hexdigest()

    def read(self) -> dict[str, Tensor]:
        """Return the tensors in the files, on the CPU. Raises SettingsError for a file that is damaged, too large or hostile."""
        whole: dict[str, Tensor] = {}
        for path in self.paths:
            part = _read(path)
            if twice := whole.keys() & part.keys():
                raise SettingsError(f"{path.name} has {min(twice)[:80]}, which another part has too: give one file")
            whole |= part
        return whole


def find(name: str) -> Found:
    """Return the weights in a file or a folder. Raises SettingsError if there are none, or several to choose from."""
    path = expanded(Path(name))
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        raise SettingsError(
            f"--encoder.weights {name}: there is no such file or folder; timm:NAME asks timm for weights"
        )
    card = _json(path.with_suffix(".json"))
    if card or path.name not in _WHOLE:
        return Found((path,), card)
    return Found((path,), _json(path.parent / "config.json"), _json(path.parent / _PREPROCESSOR))


def _in_folder(folder: Path) -> Found:
    beside = _json(folder / "config.json")
    if "encoder" in beside and "objective" in beside:
        raise SettingsError(
            f"{folder} is a run: --fork {folder} starts from it, or give --encoder.weights {folder}/export/student.safetensors"
        )
    whole = [folder / name for name in _WHOLE if (folder / name).is_file()][:1]
    parts = sorted(folder.glob("model-*-of-*.safetensors"))
    others = sorted(path for path in folder.iterdir() if path.suffix in _KINDS and path.is_file())
    paths = whole or parts or others
    if not paths:
        raise SettingsError(f"{folder} holds no weights: it needs model.safetensors, or give the file itself")
    if paths is others and len(others) > 1:
        names = ", ".join(path.name for path in others[:4])
        raise SettingsError(f"{folder} holds several weights ({names}): give the file itself")
    return Found(tuple(paths), beside or _json(paths[0].with_suffix(".json")), _json(folder / _PREPROCESSOR))


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if there is none, or it is damaged or too large."""
    try:
        value = json.loads(path.read_bytes()) if path.stat().st_size <= MAX_TEXT_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if not 8 < path.stat().st_size <= MAX_BYTES:
            raise ValueError(f"its size must be between 9 bytes and {MAX_BYTES >> 30} GiB")
        with path.open("rb") as file:
            begins = file.read(4)
        tensors = _torch(path) if begins == b"PK\x03\x04" else _safetensors(path)
        _check(tensors, path.stat().st_size)
    except Exception as error:  # of whatever kind: a damaged or hostile file can make the readers raise anything
        raise SettingsError(f"{path.name} cannot be read as weights ({_one_line(error)})") from error
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        begins = file.read(9)
    if begins[:1] == b"\x80" and begins[8:] != b"{":
        raise ValueError(
            "it is a pickle from before PyTorch 1.6: torch.save(torch.load(FILE, weights_only=True), NEW) writes today's format"
        )
    if begins[8:] != b"{":
        raise ValueError("it is neither safetensors nor a .pth of torch.save")
    with safe_open(path, "pt") as opened:  # checks its header against the size of the file
        names = list(opened.keys())
        _require_few(names)
        return {name: opened.get_tensor(name) for name in names}


def _torch(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as opened:
        entries = opened.infolist()
        lists = [entry for entry in entries if entry.filename.endswith(".pkl")]
        if len(entries) > 2 * MAX_TENSORS or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("what is in it would be larger than the file")
        if any(entry.file_size > MAX_TEXT_BYTES for entry in lists):
            raise ValueError("its list of tensors is too long")
        if any(b"\nbytearray\n" in opened.read(entry) for entry in lists):  # torch allows it, of any length
            raise ValueError("it holds a bytearray, which no weights need")
    try:
        # The arguments of a training script lie beside the weights of DINO and MAE: a plain object with attributes.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            "it is damaged, or holds more than weights, which is not run: give what torch.save(model.state_dict(), FILE) writes"
        ) from error
    if not isinstance(tree, Mapping):
        raise ValueError(f"it holds a {type(tree).__name__} and no dictionary of tensors")
    return {name: value for name, value in unwrapped(tree).items() if isinstance(value, Tensor)}


def _check(tensors: Mapping[str, Tensor], file_bytes: int) -> None:
    """Raise ValueError for names and tensors that no file of weights needs."""
    _require_few(tensors)
    if sum(_check_tensor(name, tensor, file_bytes) for name, tensor in tensors.items()) > _MAX_TIED * file_bytes:
        raise ValueError("its tensors say that they are larger than the file")


def _require_few(names: Sized) -> None:
    if len(names) > MAX_TENSORS:
        raise ValueError(f"it has {len(names)} tensors, more than {MAX_TENSORS}")


def _check_tensor(name: object, tensor: Tensor, file_bytes: int) -> int:
    """Return the bytes of a tensor. Raises ValueError if it is no plain array of numbers, or larger than what it lies in."""
    if not isinstance(name, str):
        raise ValueError(f"the name of a tensor is of type {type(name).__name__}")
    if len(name) > MAX_NAME:
        raise ValueError(f"the name of a tensor is longer than {MAX_NAME} characters: {name[:40]!r}")
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        raise ValueError(f"{name} is no plain tensor of numbers")
    if tensor.is_complex():
        raise ValueError(f"{name} is complex: give real weights")
    bytes_ = tensor.numel() * tensor.element_size()
    if bytes_ > min(file_bytes, tensor.untyped_storage().nbytes()):
        raise ValueError(f"{name} says that it is larger than the bytes it lies in")
    return bytes_


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:240] or type(error).__name__
