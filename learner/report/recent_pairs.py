"""The newest pairs in the memory of a run, read from its run directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from buffer.store import StoreError, StoreReader
from learner.memory.canvas import on_canvas
from learner.runs.commit import unpack
from stream.codec import decode
from stream.errors import MalformedMessage
from stream.image import Image
from stream.pair import StereoPair


@dataclass(frozen=True, eq=False)
class RecentPairs:
    """Pairs in the order of their capture.

    images: the left ones, uint8 [n, S, S, 3] BGR, squeezed to a square. captured_ns: int64 [n], nanoseconds since 1970.
    """

    images: Image
    captured_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)


def recent_pairs(store: Path, count: int, *, size: int) -> RecentPairs:
    """Return the last `count` pairs of the newest commit of a store; fewer where it has fewer or some are damaged.

    size: side S of the images, pixels. A learner may write the store at the same time. Raises StoreError where there is no
    store or it cannot be read.
    """
    reader = StoreReader(store)
    commits = reader.commits()
    keys = commits[0].keys[-count:].tolist() if commits else []
    pairs = sorted(_decoded(reader, keys), key=lambda pair: pair.header.left_ns)
    images = np.array([on_canvas(pair.left, (size, size)) for pair in pairs], np.uint8).reshape(-1, size, size, 3)
    return RecentPairs(images, np.array([pair.header.left_ns for pair in pairs], np.int64))


def _decoded(reader: StoreReader, keys: list[int]) -> Iterator[StereoPair]:
    for key in keys:
        try:
            yield decode(unpack(next(reader.items([key]))))
        except (StoreError, MalformedMessage):  # damaged, or removed by a new commit of a learner at work
            continue
