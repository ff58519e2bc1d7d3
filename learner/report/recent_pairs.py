"""The newest pairs in the memory of a run, read from its run directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from buffer.store_reader import StoreError, StoreReader
from learner.memory.canvas import on_canvas
from learner.runs.checkpoint import load_checkpoint
from learner.runs.commit import unpack
from learner.runs.note import decode_note
from stream.codec import decode
from stream.errors import MalformedMessage
from stream.image import Image
from stream.pair import StereoPair


def recent_pairs(store: Path, count: int, *, size: int) -> tuple[Image, list[int]]:
    """Return the last `count` pairs of the newest commit of a store, in the order of their capture.

    They are the left images, uint8 [n, S, S, 3] BGR, squeezed to squares of S = `size` pixels, and the n capture times,
    nanoseconds since 1970. There are fewer where the store has fewer or some are damaged. A learner may write the store at the
    same time. Raises StoreError if there is no store or it cannot be read.
    """
    reader = StoreReader(store)
    commits = reader.commits()
    keys = commits[0].keys[-count:].tolist() if commits else []
    return _in_order(_decoded(reader, keys), size)


def held_out_pairs(store: Path, checkpoints: Path, count: int, *, size: int) -> tuple[Image, list[int]]:
    """Return `count` of the pairs that are held out and kept for the probe, in the order of their capture, as `recent_pairs`.

    Raises LearnerError if the checkpoint of the newest commit is damaged, StoreError as above.
    """
    reader = StoreReader(store)
    commits = reader.commits()
    keys = load_checkpoint(checkpoints / decode_note(commits[0].note).folder)["holdout"]["keys"] if commits else ()
    return _in_order(_decoded(reader, np.sort(np.asarray(keys, np.int64))[-count:].tolist()), size)


def _in_order(pairs: Iterator[StereoPair], size: int) -> tuple[Image, list[int]]:
    in_order = sorted(pairs, key=lambda pair: pair.header.left_ns)
    images = np.array([on_canvas(pair.left, (size, size)) for pair in in_order], np.uint8).reshape(-1, size, size, 3)
    return images, [pair.header.left_ns for pair in in_order]


def _decoded(reader: StoreReader, keys: list[int]) -> Iterator[StereoPair]:
    for key in keys:
        with suppress(StoreError, MalformedMessage):  # damaged, or removed by a new commit of a learner at work
            yield decode(unpack(next(reader.items([key]))))
