"""What really happened to the pairs of a simulated rig, whatever its records say; the judge looks here, and the rig does not."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import msgspec

from benchmarks.simulation.disk import Disk
from stream.pair import EncodedPair, Header

DEVICE = "rig"
Name = tuple[str, int]
"""Epoch and number of a pair."""
IMAGE_CRC = zlib.crc32(b"leftright")
HEADER = Header(
    device=DEVICE,
    epoch="0" * 32,
    seq=0,
    left_ns=0,
    right_ns=0,
    height=1,
    width=1,
    channels=1,
    codec="lz4",
    crc=IMAGE_CRC,
)


class Truth:
    """All pairs of a rig, and what has become of them."""

    def __init__(self) -> None:
        self.made: dict[str, int] = {}
        """The number of pairs of each epoch, kept or refused."""
        self.kept: dict[Name, EncodedPair] = {}
        """All pairs that were ever kept, in their order."""
        self.rotten: set[Name] = set()
        """Pairs that cannot be read, wherever they lie."""
        self.unrecorded: set[Name] = set()
        """Kept pairs whose record was destroyed by damage: the rig cannot know that they existed."""
        self._away: set[Name] = set()
        """Pairs that were gone for a time; an older copy of the spool may bring them back."""

    def make(self, epoch: str) -> EncodedPair:
        """Return the next pair of an epoch."""
        seq, self.made[epoch] = self.made[epoch], self.made[epoch] + 1
        return EncodedPair(msgspec.structs.replace(HEADER, epoch=epoch, seq=seq), b"left", b"right")

    def readable(self, name: Name) -> EncodedPair | None:
        """Return a pair that was kept and can be read, otherwise None."""
        return None if name in self.rotten else self.kept.get(name)

    def forgotten(self, recorded: Mapping[str, int]) -> list[Name]:
        """Return the kept pairs of which a rig knows nothing any more, though nothing has damaged its records.

        recorded: how far it knows each epoch.
        """
        return [name for name in self.kept if name not in self.unrecorded and recorded.get(name[0], 0) <= name[1]]

    def note_away(self, disk: Disk) -> None:
        """Note which pairs are away: to be called before and after each damage of the disk."""
        self._away.update(name for name in self.kept if not self.holds(disk, name))

    def holds(self, disk: Disk, name: Name) -> bool:
        """Return whether a pair could always be given from a disk, and still can."""
        epoch, seq = name
        if self.readable(name) is None or name in self._away:
            return False
        return any(one.epoch == epoch and one.first <= seq < one.end for one in disk.segments)
