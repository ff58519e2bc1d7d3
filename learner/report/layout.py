"""How an encoder lays out a stretch of the stream: cosine distances between its moments, and a map of them (t-SNE)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from buffer.store import StoreError
from learner.errors import LearnerError
from learner.probes.probe import extract
from learner.report.recent_pairs import Stretch, newest
from learner.runs.folder import RunDirectory, settings_of
from learner.weights.export import load_encoder

MAX_PAIRS = 200
MIN_PAIRS = 8
"""Fewer make no map."""
PERPLEXITY = 30.0

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Layout:
    """distances: [n, n] between the features of the stretch's moments; places: [n, 2], where t-SNE puts them."""

    stretch: Stretch
    distances: Matrix
    places: Matrix


def layout_of(run: Path, who: str = "student") -> Layout:
    """The newest pairs in the memory of a run, as the exported weights of one of its encoders see their left images.

    Raises LearnerError in one line where something of the run is missing or damaged.
    """
    config = settings_of(run)
    directory = RunDirectory(run, config)
    encoder = load_encoder(config.encoder, directory.export / f"{who}.safetensors")
    try:
        stretch = newest(directory.store, MAX_PAIRS, size=config.objective.probe_size)
    except StoreError as error:
        raise LearnerError(str(error)) from error
    if len(stretch) < MIN_PAIRS:
        raise LearnerError(f"the run remembers {len(stretch)} pairs, a stretch needs {MIN_PAIRS}")
    features = extract(encoder, stretch.images, device=torch.device("cpu"))
    if not features.isfinite().all():
        raise LearnerError(f"the exported {who} gives features that are not finite")
    distances = cosine_distances(features.double().numpy())
    return Layout(stretch, distances, tsne(distances))


def cosine_distances(features: Matrix) -> Matrix:
    """1 - cosine, [n, n] in [0, 2], of features [n, D]; 0 on the diagonal."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    distances: Matrix = np.clip(1 - unit @ unit.T, 0, 2)
    np.fill_diagonal(distances, 0)
    return distances


def tsne(distances: Matrix, *, seed: int = 0) -> Matrix:
    """Places [n, 2] whose neighbours are those of `distances` [n, n] (van der Maaten and Hinton 2008); n >= MIN_PAIRS.

    The exact algorithm, in one order of sums: the same distances give the same map.
    """
    perplexity = min(PERPLEXITY, (len(distances) - 1) / 3)
    solver = TSNE(metric="precomputed", init="random", method="exact", perplexity=perplexity, random_state=seed)
    places: Matrix = solver.fit_transform(distances.copy()).astype(np.float64)  # it squares them in place
    return places
