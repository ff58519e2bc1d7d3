"""`python -m learner export RUN`: the newest good weights as ONNX too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import cv2
import torch
import tyro

from learner.errors import SettingsError
from learner.report.recent_pairs import recent_pairs
from learner.runs.folder import RunDirectory, settings_of
from learner.weights.export import load_encoder
from learner.weights.onnx import export_onnx
from stream.pair import MAX_SIDE

DESCRIPTION = """Write the newest good weights of a run as ONNX, beside the safetensors that are always there.

  python -m learner export runs/rig                 beside the learner at work there, or after it
  python -m learner export runs/rig --size 96       for images of 96 x 96 pixels

RUN/export/student.onnx and teacher.onnx take RGB in [0, 1], float32 [B, 3, SIZE, SIZE], any number of images at once, and give
their features, float32 [B, D]; nothing is to be normalised. They are compared with PyTorch on pairs of the run first, and
written only if they agree. Needs: pip install -e '.[learner,onnx]'.
Exit codes: 0 done, 1 failed on the way, 2 wrong settings."""

CHECKED_PAIRS = 16
"""Pairs on which the two are compared."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Export a run as ONNX."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    size: int | None = None
    """Side of the images in pixels, a multiple of the patch size; None takes that of the teacher's crop."""
    threads: int = 1
    """Torch's threads."""
    json: bool = False
    """Print what came of it as JSON."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise SettingsError(f"--threads must be at least 1, got {self.threads}")
        if self.size is not None and not 1 <= self.size <= MAX_SIDE:
            raise SettingsError(f"--size must be 1 to {MAX_SIDE}, got {self.size}")


def run(words: Sequence[str]) -> str:
    """Export a run and return what is to be said. Raises LearnerError, or StoreError where its pairs cannot be read."""
    settings = tyro.cli(ExportSettings, prog="python -m learner export", args=list(words), description=DESCRIPTION)
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise SettingsError(f"{missing[0]} is not installed here: pip install -e '.[learner,onnx]' in the checkout")
    cv2.setNumThreads(1)
    torch.set_num_threads(settings.threads)
    exported = _export(settings)
    if settings.json:
        return json.dumps(exported)
    return "\n".join(f"{line['path']}  differs from PyTorch by {line['difference']:.1e}" for line in exported)


def _export(settings: ExportSettings) -> list[dict[str, Any]]:
    config = settings_of(settings.run)
    directory = RunDirectory(settings.run, config)
    size = config.objective.probe_size if settings.size is None else settings.size
    weights = sorted(directory.export.glob("*.safetensors"))
    if not weights:
        raise SettingsError(f"{directory.export} has no weights yet: wait for a commit without signs of collapse")
    images = recent_pairs(directory.store, CHECKED_PAIRS, size=size).images
    if len(images) < 2:
        raise SettingsError(f"{settings.run} remembers no two pairs to compare on: let it receive some first")
    exported = []
    for path in weights:
        encoder = load_encoder(config.encoder, path)
        if size % encoder.patch_size:
            raise SettingsError(f"--size must be a multiple of the patch size {encoder.patch_size}, got {size}")
        target = path.with_suffix(".onnx")
        difference = export_onnx(encoder, target, images, weights_sha256=_sha256(path))
        exported.append({"path": str(target), "size": size, "difference": difference})
    return exported


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
