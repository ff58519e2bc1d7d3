"""A backbone as ONNX, for robots without PyTorch; its output is compared with that of PyTorch before the file is written.

It uses the exporter with `dynamo=True` (torch.export), since the older one is deprecated. Normalisation is part of the graph;
height and width are fixed, the number of images is free.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from learner.errors import Failed
from learner.networks.encoder import Encoder
from stream.fsync import sync_path
from stream.image import Image

TOLERANCE = 1e-4
"""Largest difference from PyTorch, as a share of the largest feature; another order of float32 sums gives about 1e-6."""


def export_onnx(encoder: Encoder, path: Path, images: Image, *, weights_sha256: str) -> float:
    """Write `path`, with input `rgb` float32 [B, 3, S, S] in [0, 1] and output `features` float32 [B, D], or nothing.

    images: uint8 [n, S, S, 3] BGR, n >= 2; the graph is compared with PyTorch on them, in one batch and one by one. Returns the
    largest difference as a share of the largest feature; raises Failed if it is above TOLERANCE.
    """
    rgb = torch.from_numpy(np.ascontiguousarray(images)).flip(-1).permute(0, 3, 1, 2).float() / 255
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        encoder,
        (rgb[:2],),
        input_names=["rgb"],
        output_names=["features"],
        dynamic_shapes={"rgb": {0: batch}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # only the older exporter returns None
    program.model.metadata_props["weights_sha256"] = weights_sha256
    draft = path.with_name(f".{path.name}")
    program.save(draft, external_data=False)
    try:
        difference = _difference(encoder, draft, rgb)
        if not difference <= TOLERANCE:
            raise Failed(f"{path.name} differs from PyTorch by {difference:.1e} of the largest feature: not written")
        sync_path(draft)
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    return difference


def _difference(encoder: Encoder, path: Path, rgb: torch.Tensor) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        ours = encoder(rgb).numpy()
    together = session.run(None, {"rgb": rgb.numpy()})[0]
    alone = np.concatenate([session.run(None, {"rgb": one[None]})[0] for one in rgb.numpy()])
    return float(max(np.abs(together - ours).max(), np.abs(alone - ours).max()) / np.abs(ours).max())
