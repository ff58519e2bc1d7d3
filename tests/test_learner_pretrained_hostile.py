"""Hostile files of weights: each is read or refused in one line, runs no code and takes no more memory than its bytes."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_weights import KINDS, WIDTH, hugging_face, official
from safetensors.torch import save_file

from learner.errors import SettingsError
from learner.pretrained.files import find
from learner.pretrained.start import encoder_of


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("was-run"),)


def pickled_code(path: Path) -> None:
    torch.save({"model": Code()}, path)


def old_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Code()))


def cut(path: Path) -> None:
    save_file(official("dino"), path)
    path.write_bytes(path.read_bytes()[:-100])


def long_header(path: Path) -> None:
    path.write_bytes((2**62).to_bytes(8, "little") + b'{"a":1}')


def claims_more(path: Path) -> None:
    header = json.dumps({"cls_token": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))


def packed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(2**24))


def widened(path: Path) -> None:
    torch.save({"cls_token": torch.zeros(1).expand(2**40)}, path)


def widened_in_wrappers(path: Path) -> None:
    """Whose half floats would take terabytes as soon as they were converted."""
    wide = torch.zeros(1, dtype=torch.float16).expand(2**44)
    own: dict[str, Any] = official("dino") | {"blocks.0.norm1.weight": wide}
    for wrapper in ("module", "backbone", "state_dict", "model", "teacher"):
        own = {wrapper: own}
    torch.save(own, path)


def overlapping(path: Path) -> None:
    """Whose tensors all lie in the same bytes: each fits into the file, together they are a hundred times as large."""
    one = torch.zeros(2**16, dtype=torch.float16)
    torch.save({f"blocks.{number}.norm1.weight": one for number in range(100)}, path)


def named_by_numbers(path: Path) -> None:
    torch.save({"model": {"state_dict": {7: torch.ones(3)}}}, path)


def with_list(path: Path, list_of_tensors: bytes) -> None:
    """Write a `.pth` whose list of tensors, its `data.pkl`, is replaced."""
    torch.save({"cls_token": torch.zeros(3)}, path)
    with zipfile.ZipFile(path) as file:
        entries = {entry.filename: file.read(entry) for entry in file.infolist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(name, list_of_tensors if name.endswith("data.pkl") else data)


def long_bytearray(path: Path) -> None:
    """Which torch would fill with zeros, however long it says it is."""
    with_list(path, b"\x80\x02c__builtin__\nbytearray\nJ\x00\x00\x00\x40\x85R.")


def text(path: Path) -> None:
    path.write_text("<!DOCTYPE html> not found, sign in to download")


def sparse(path: Path) -> None:
    torch.save({"cls_token": torch.eye(3).to_sparse()}, path)


def complex_numbers(path: Path) -> None:
    save_file(official("dino") | {"cls_token": torch.ones(1, 1, WIDTH, dtype=torch.complex64)}, path)


def a_list(path: Path) -> None:
    torch.save([torch.ones(3)], path)


def deep_blocks(path: Path) -> None:
    """Whose width would take terabytes, though the file is small."""
    wide = {"patch_embed.proj.weight": torch.zeros(10**6, 3, 1, 1), "pos_embed": torch.zeros(1, 2, 1)}
    torch.save(wide | {f"blocks.{number}.ls1.gamma": torch.zeros(1) for number in range(12)}, path)


@pytest.mark.parametrize(
    "make",
    [
        *(pickled_code, old_pickle, cut, long_header, claims_more, packed, widened, widened_in_wrappers, overlapping),
        *(named_by_numbers, long_bytearray, text, sparse, complex_numbers, a_list, deep_blocks),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights"
    make(path)
    with pytest.raises(SettingsError) as refused:
        encoder_of(str(path))
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert ("cannot be read as weights" in str(refused.value)) == (make is not deep_blocks)
    assert not (tmp_path / "was-run").exists()


def test_a_pth_that_is_cut_or_changed_anywhere_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    """Zip and pickle raise errors of a dozen kinds between them."""
    path = tmp_path / "weights.pth"
    torch.save({"model": {"cls_token": torch.zeros(3), "pos_embed": torch.zeros(2).half()}}, path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        listed = file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))
    for end in range(len(listed)):
        with_list(path, listed[:end])
        with pytest.raises(SettingsError, match=r"weights\.pth cannot be read as weights"):
            find(str(path)).read()
    for at in range(0, len(whole), 3):
        for spoiled in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(spoiled)
            with contextlib.suppress(SettingsError):
                find(str(path)).read()


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_whichever_tensor_has_another_shape_there_is_an_encoder_or_one_line(
    kind: str, published: bool, shape: tuple[int, ...], tmp_path: Path
) -> None:
    weights = official(kind)
    tensors, beside = (weights, {}) if published else hugging_face(kind, weights)
    path = tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text(json.dumps(beside))
    refused = []
    for name in (one for one in tensors if not re.search(r"mask_token|decoder|[a-z]\.1\.", one)):
        save_file(tensors | {name: torch.ones(shape)}, path)
        try:
            encoder_of(str(path))
        except SettingsError as error:
            refused.append(str(error))
    assert len(refused) > 12
    assert all(re.fullmatch(r"--encoder\.weights .+", text) for text in refused)
