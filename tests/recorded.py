"""Pairs that can be made again from their number, and recordings of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np

from stream.codec import encode_pair
from stream.pair import Codec, EncodedPair
from stream.recording.mcap_reader import McapReader
from stream.recording.reader import RecordingReader
from stream.recording.writer import RecordingWriter

EPOCH, NEXT_EPOCH = "a" * 32, "b" * 32
START_NS = 1_700_000_000_000_000_000


@cache
def made(
    seq: int,
    codec: Codec = "jpeg",
    *,
    device: str = "baby",
    epoch: str = EPOCH,
    shape: tuple[int, ...] = (24, 32, 3),
    step_ns: int = 100_000_000,
) -> EncodedPair:
    """The same bytes for the same arguments."""
    left, right = np.random.default_rng(seq).integers(0, 256, (2, *shape), np.uint8)
    left_ns = START_NS + seq * step_ns
    return encode_pair(
        left,
        right,
        device=device,
        epoch=epoch,
        seq=seq,
        left_ns=left_ns,
        right_ns=left_ns + 7,
        codec=codec,
        suppressed=seq,
    )


def some(count: int, codec: Codec = "jpeg", *, device: str = "baby", epoch: str = EPOCH) -> list[EncodedPair]:
    return [made(seq, codec, device=device, epoch=epoch) for seq in range(count)]


def recorded(path: Path, pairs: Iterable[EncodedPair]) -> Path:
    with RecordingWriter(path) as writer:
        for pair in pairs:
            writer.write(pair)
    return path


def names(pairs: Sequence[EncodedPair]) -> list[tuple[str, str, int]]:
    """The identities."""
    return [(pair.header.device, pair.header.epoch, pair.header.seq) for pair in pairs]


def read_pairs(data: bytes) -> list[EncodedPair]:
    """The pairs in a recording's bytes, however damaged they are; StreamError if it is none, and nothing else."""
    return list(RecordingReader(McapReader(BytesIO(data)), "recording"))
