"""How an encoder arranges recent pairs: cosine distances between their features, and a map of them (t-SNE)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from buffer.store_reader import StoreError
from learner.errors import LearnerError
from learner.probes.probe import extract
from learner.report.recent_pairs import held_out_pairs, recent_pairs
from learner.runs.folder import RunDirectory
from learner.runs.settings import settings_of
from learner.weights.export import load_encoder
from stream.image import Image

MAX_PAIRS = 200
MIN_PAIRS = 8
"""Least number of pairs for which a map is drawn."""
PERPLEXITY = 30.0

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Layout:
    """Pairs as in `recent_pairs`. distances: [n, n] between their features; positions: [n, 2], those of t-SNE."""

    images: Image
    captured_ns: list[int]
    distances: Matrix
    positions: Matrix


def layout_of(run: Path, *, held_out: bool = False) -> Layout:
    """Return the layout of the left images of the newest pairs in a run's memory, or of those held out, by the exported student.

    Raises LearnerError if a file of the run is missing or damaged.
    """
    config = settings_of(run)
    directory = RunDirectory(run, config)
    encoder = load_encoder(config.encoder, directory.export / "student.safetensors")
    try:
        size = config.crops.probe_size
        if held_out:
            images, captured_ns = held_out_pairs(directory.store, directory.checkpoints, MAX_PAIRS, size=size)
        else:
            images, captured_ns = recent_pairs(directory.store, MAX_PAIRS, size=size, checkpoints=directory.checkpoints)
    except StoreError as error:
        raise LearnerError(str(error)) from error
    if len(images) < MIN_PAIRS:
        who = "run has held out" if held_out else "memory of the run has"
        raise LearnerError(f"the {who} {len(images)} pairs, a map needs {MIN_PAIRS}")
    features = extract(encoder, images, device=torch.device("cpu"))
    if not features.isfinite().all():
        raise LearnerError("the exported student gives features that are not finite")
    distances = cosine_distances(features.double().numpy())
    return Layout(images, captured_ns, distances, tsne(distances))


def cosine_distances(features: Matrix) -> Matrix:
    """Return 1 - cosine between features [n, D]: [n, n] in [0, 2], 0 on the diagonal."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    distances: Matrix = np.clip(1 - unit @ unit.T, 0, 2)
    np.fill_diagonal(distances, 0)
    return distances


def tsne(distances: Matrix, *, seed: int = 0) -> Matrix:
    """Return positions [n, 2] with the same neighbours as in `distances` [n, n] (van der Maaten and Hinton 2008); n >= MIN_PAIRS.

    The exact algorithm is used, so that the same distances give the same map.
    """
    perplexity = min(PERPLEXITY, (len(distances) - 1) / 3)
    solver = TSNE(metric="precomputed", init="random", method="exact", perplexity=perplexity, random_state=seed)
    positions: Matrix = solver.fit_transform(distances.copy())  # a copy: it squares its input in place
    return positions.astype(np.float64)
