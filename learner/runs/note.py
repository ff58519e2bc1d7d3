"""The note of a commit: what it holds beside its pairs, as it stands in the store and in the checkpoint."""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from learner.runs.checkpoint import FOLDER
from stream.source import Cursor

COMMIT = "commit"
"""The key in the state of a checkpoint under which the note of its commit stands, and the checksums of its pairs."""


class Note(msgspec.Struct, frozen=True):
    """The part of a commit beside its pairs."""

    folder: Annotated[str, msgspec.Meta(pattern=FOLDER)]
    """The name of its checkpoint."""
    cursor: Cursor
    """The state of the source: the pairs that the learner had received."""
    store: str = ""
    """The identity of the store that has its pairs; empty in earlier versions, as is what follows."""
    pairs: str = ""
    """See `checksum_of`."""
    replaces: tuple[str, ...] = ()
    """The checkpoints of earlier commits, which may be removed once this commit and its predecessor are durable."""


def decode_note(encoded: bytes) -> Note:
    """Return the note of a commit. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(encoded, type=Note)


def checksum_of(keys: NDArray[np.int64], checksums: NDArray[np.int64]) -> str:
    """Return the SHA-256 over the keys of pairs and their checksums, int64 [n] each: one name for all bytes of a commit."""
    return hashlib.sha256(keys.astype("<i8").tobytes() + checksums.astype("<i8").tobytes()).hexdigest()
