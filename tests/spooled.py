"""Small pairs that can be made again from their number, and spools small enough to fill."""

from __future__ import annotations

import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from waiting import WAIT_S

from device.spool.rules import SpoolLimits
from device.spool.spool import Spool
from stream.codec import encode_pair, to_parts
from stream.live.backfill_messages import PairParts, Reading
from stream.pair import EncodedPair
from stream.ranges import Ranges

DEVICE = "rig"
A, B, C = "a" * 32, "b" * 32, "d" * 32
NOBODY = "c" * 32
SEGMENT_BYTES = 256 << 10
"""13 of these pairs."""
MAX_BYTES = 16 * SEGMENT_BYTES
ROOMY_BYTES = 8 * MAX_BYTES
"""So much that nothing is evicted, even if sealing is late."""


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def open_spool(
    folder: Path,
    *,
    device: str = DEVICE,
    max_bytes: int = MAX_BYTES,
    free_floor_bytes: int = 0,
    segment_bytes: int = SEGMENT_BYTES,
    max_emptied_epochs: int = 256,
    grace_s: float = 0.0,
    **others: Any,
) -> Spool:
    """A small spool that deletes acknowledged pairs at once, unless a test is about that."""
    limits = SpoolLimits(max_bytes, free_floor_bytes, segment_bytes, max_emptied_epochs=max_emptied_epochs)
    return Spool(folder, limits, device=device, grace_s=grace_s, **others)


def make_pair(seq: int, epoch: str, *, side: int = 64, device: str = DEVICE) -> EncodedPair:
    """A pair whose bytes depend on its number only."""
    pair = _noise(seq, side)
    return EncodedPair(msgspec.structs.replace(pair.header, device=device, epoch=epoch), pair.left, pair.right)


@cache
def _noise(seq: int, side: int) -> EncodedPair:
    left, right = np.random.default_rng(seq).integers(0, 256, (2, side, side), np.uint8)
    return encode_pair(left, right, device=DEVICE, epoch="0" * 32, seq=seq, left_ns=seq, right_ns=seq, codec="lz4")


def row_of(seq: int, epoch: str, *, side: int = 64) -> PairParts:
    """The row that a spool gives for a pair."""
    _, header, left, right = to_parts(make_pair(seq, epoch, side=side))
    return header, left, right


def fill(spool: Spool, count: int, *, side: int = 64) -> None:
    """Append the next `count` pairs, and wait for sealing after each, because it decides how much fits."""
    head = spool.spans()[-1].head
    for seq in range(head, head + count):
        assert spool.append(make_pair(seq, spool.epoch, side=side))
        settle(spool)


def pull(spool: Spool, epoch: str, first: int, last: int, *, credit_bytes: int = 1 << 20) -> tuple[list[int], Ranges]:
    """Pull [first, last) as a learner does; returns the numbers of the given pairs, and the lost ones.

    Every answer is checked: rows in order and as they were appended, each number either given or lost.
    """
    given: list[int] = []
    lost = Ranges()
    while first < last:
        reading = spool.read(epoch, first, last, credit_bytes)
        check(reading, epoch, first, last)
        missing = Ranges(reading.lost)
        given += [seq for seq in range(first, reading.next) if seq not in missing]
        for a, b in reading.lost:
            lost.add(a, b)
        if reading.next == first:
            break
        first = reading.next
    return given, lost


def check(reading: Reading, epoch: str, first: int, last: int) -> None:
    """Check one answer."""
    assert first <= reading.next <= last
    missing = Ranges(reading.lost)
    assert all(first <= a < b <= reading.next for a, b in reading.lost)
    numbers = [seq for seq in range(first, reading.next) if seq not in missing]
    assert list(reading.rows) == [row_of(seq, epoch) for seq in numbers]


def bytes_in(folder: Path) -> int:
    """The size of all files in a folder, while some of them may be deleted."""
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def settle(spool: Spool) -> None:
    """Wait until nothing is being sealed: the open and the newest full segment stay unsealed."""
    assert spool.wait_sealed(WAIT_S), "full segments are not sealed"


def copied(folder: Path, to: Path) -> Path:
    """Copy a folder as another process would find it if this one was killed now; call `settle` before."""
    return Path(shutil.copytree(folder, to))


def segment_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if ".sqlite" in path.name)
