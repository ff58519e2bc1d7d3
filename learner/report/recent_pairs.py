"""The newest pairs in the memory of a run, read from its run directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from buffer.index import Keys
from buffer.store_reader import Commit, StoreError, StoreReader
from learner.memory.canvas import on_canvas
from learner.memory.holdout import NOTHING
from learner.runs.checkpoint import load_checkpoint
from learner.runs.commit import unpack
from learner.runs.note import decode_note
from stream.codec import decode
from stream.errors import MalformedMessage
from stream.image import Image
from stream.pair import StereoPair


def recent_pairs(store: Path, count: int, *, size: int, checkpoints: Path | None = None) -> tuple[Image, list[int]]:
    """Return the last `count` pairs of the newest commit of a store, in the order of their capture.

    checkpoints: those of the run, if pairs that are held out are to be left out.

    They are the left images, uint8 [n, S, S, 3] BGR, squeezed to squares of S = `size` pixels, and the n capture times,
    nanoseconds since 1970. There are fewer where the store has fewer or some are damaged. A learner may write the store at the
    same time. Raises StoreError if there is no store or it cannot be read, LearnerError if the checkpoint of the newest commit is
    damaged.
    """
    with StoreReader(store).held() as reader:
        commits = reader.commits()
        keys = commits[0].keys if commits else np.empty(0, np.int64)
        if commits and checkpoints is not None:
            keys = keys[~np.isin(keys, _held_out(commits[0], checkpoints))]
        return _in_order(_decoded(reader, keys[-count:].tolist()), size)


def held_out_pairs(store: Path, checkpoints: Path, count: int, *, size: int) -> tuple[Image, list[int]]:
    """Return `count` of the pairs that are held out and kept for the probe, in the order of their capture, as `recent_pairs`.

    Raises LearnerError if the checkpoint of the newest commit is damaged, StoreError as above.
    """
    with StoreReader(store).held() as reader:
        commits = reader.commits()
        keys = _held_out(commits[0], checkpoints)[-count:].tolist() if commits else []
        return _in_order(_decoded(reader, keys), size)


def _held_out(commit: Commit, checkpoints: Path) -> Keys:
    """Return the keys of the pairs that a commit has for the probe, rising."""
    state = load_checkpoint(checkpoints / decode_note(commit.note).folder)
    return np.sort(np.asarray(state.get("holdout", NOTHING)["keys"], np.int64))


def _in_order(pairs: Iterator[StereoPair], size: int) -> tuple[Image, list[int]]:
    in_order = sorted(pairs, key=lambda pair: pair.header.left_ns)
    images = np.array([on_canvas(pair.left, (size, size)) for pair in in_order], np.uint8).reshape(-1, size, size, 3)
    return images, [pair.header.left_ns for pair in in_order]


def _decoded(reader: StoreReader, keys: list[int]) -> Iterator[StereoPair]:
    for key in keys:
        with suppress(StoreError, MalformedMessage):  # damaged
            yield decode(unpack(next(reader.items([key]))))
