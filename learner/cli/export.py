"""`python -m learner export RUN` writes the newest good weights as ONNX files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import cv2
import torch
import tyro

from learner.distributed.collectives import require_alone
from learner.errors import SettingsError
from learner.report.recent_pairs import recent_pairs
from learner.runs.folder import RunDirectory
from learner.runs.settings import settings_of
from learner.weights.export import load_encoder
from learner.weights.onnx import export_onnx
from stream.host.command import Command
from stream.host.program import Result, Stop
from stream.image import MAX_SIDE

DESCRIPTION = """Write the newest good weights of a run as ONNX, beside the safetensors that are always there.

  python -m learner export runs/rig                 while a learner works there, or afterwards
  python -m learner export runs/rig --size 96       for images of 96 x 96 pixels

RUN/export/student.onnx and teacher.onnx map RGB in [0, 1], float32 [B, 3, SIZE, SIZE], to features, float32 [B, D], for any
number of images B; they normalise their input themselves. First they are compared with PyTorch on pairs of the run, and they
are written only if the results agree. Needs: pip install -e '.[learner,onnx]'.
Exit codes: 0 done, 1 failed on the way, 2 wrong settings."""

CHECKED_PAIRS = 16
"""Pairs on which ONNX and PyTorch are compared."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Export a run as ONNX."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run directory."""
    size: int | None = None
    """Side of the images in pixels, a multiple of the patch size; None takes that of the views that the encoder sees most."""
    threads: int = 1
    """Threads of torch."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise SettingsError(f"--threads must be at least 1, got {self.threads}")
        if self.size is not None and not 1 <= self.size <= MAX_SIDE:
            raise SettingsError(f"--size must be 1 to {MAX_SIDE}, got {self.size}")


def run(settings: ExportSettings, stop: Stop) -> Result:
    """Export a run. Raises LearnerError, or StoreError if its pairs cannot be read."""
    require_alone("export")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise SettingsError(f"{missing[0]} is not installed here: pip install -e '.[learner,onnx]' in the checkout")
    cv2.setNumThreads(1)
    torch.set_num_threads(settings.threads)
    exported = _export(settings)
    lines = [f"{line['path']}  differs from PyTorch by {line['difference']:.1e}" for line in exported]
    return Result("\n".join(lines), exported)


def _export(settings: ExportSettings) -> list[dict[str, Any]]:
    config = settings_of(settings.run)
    directory = RunDirectory(settings.run, config)
    size = config.crops.probe_size if settings.size is None else settings.size
    weights = sorted(directory.export.glob("*.safetensors"))
    if not weights:
        raise SettingsError(f"{directory.export} has no weights yet: wait for a commit without signs of collapse")
    images, _ = recent_pairs(directory.store, CHECKED_PAIRS, size=size)
    if len(images) < 2:
        raise SettingsError(
            f"{settings.run} has fewer than two pairs in memory to compare on: let it receive some first"
        )
    exported = []
    for path in weights:
        encoder = load_encoder(config.encoder, path)
        if size % encoder.patch_size:
            raise SettingsError(f"--size must be a multiple of the patch size {encoder.patch_size}, got {size}")
        target = path.with_suffix(".onnx")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        difference = export_onnx(encoder, target, images, weights_sha256=sha256)
        exported.append({"path": str(target), "size": size, "difference": difference})
    return exported


COMMAND = Command(run=run, settings=ExportSettings, description=DESCRIPTION)
