"""A segment of the spool as the rules see it: a range of pairs, its size, and what can happen to it next."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from stream.ranges import Ranges


class State(Enum):
    """The state of a segment: what can happen to it next."""

    OPEN = auto()
    """Pairs are appended to it."""
    FULL = auto()
    """Nothing more is appended; it will be sealed."""
    SEALED = auto()
    """It is a plain read-only database."""
    UNSEALABLE = auto()
    """Sealing failed because the file is damaged: it stays as it is."""
    DELETED = auto()
    """It is no longer part of the spool."""


@dataclass(frozen=True, slots=True)
class Size:
    """The bytes that a segment's files take on the disk."""

    disk_bytes: int
    """All files together."""
    log_bytes: int
    """The part of these bytes that sealing writes once more."""


@dataclass(eq=False, slots=True)
class Segment:
    """The pairs [first, end) of one epoch. Two segments are equal only if they are the same object."""

    run: int
    """Number of the process that wrote the segment: the processes that write to this spool are counted from 1."""
    epoch: str
    first: int
    end: int
    state: State
    begun_s: float = 0.0
    """When the segment was begun, or last written if an earlier process wrote it; seconds since 1970."""
    size: Size = Size(0, 0)
    damaged: bool = False
    """Whether an earlier process left the segment damaged, so that its end is an estimate."""
    rotten: Ranges = field(default_factory=Ranges)
    """Numbers of its pairs that turned out to be unreadable."""

    @property
    def claimed_bytes(self) -> int:
        """The bytes that the segment takes now, plus those that sealing will write."""
        return self.size.disk_bytes + self.size.log_bytes

    @property
    def empty(self) -> bool:
        """Whether the segment never held a pair."""
        return self.end == self.first and self.state is not State.SEALED and not self.damaged

    def count_from(self, seq: int) -> int:
        """Return how many of its numbers are at least `seq`."""
        return self.end - min(max(self.first, seq), self.end)

    def extend(self, end: int) -> int:
        """Move the end to `end`, because the epoch went on at least so far and the pairs beyond were cut off; return how many."""
        missing = max(0, end - self.end)
        if missing:
            self.end, self.damaged = end, True
        return missing


@dataclass(frozen=True, slots=True)
class Removal:
    """A decision of the rules: which files to delete."""

    segments: tuple[Segment, ...] = ()
    emptied: tuple[tuple[int, str, int], ...] = ()
    """Run, name and end of the epochs that lose their last pair with it. Their ends have to be durable before."""
    forgotten: tuple[str, ...] = ()
    """Epochs whose `epoch_end` files are to be deleted, because there are too many."""

    def __add__(self, other: Removal) -> Removal:
        return Removal(self.segments + other.segments, self.emptied + other.emptied, self.forgotten + other.forgotten)

    @property
    def disk_bytes(self) -> int:
        """The bytes that the removal frees on the disk."""
        return sum(segment.size.disk_bytes for segment in self.segments)
