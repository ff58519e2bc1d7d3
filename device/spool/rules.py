"""The rules of the spool: when a pair may be written, what is deleted to make room, what is sealed, what a consumer still needs.

Pure: it uses no files, threads, locks or clocks. Times, free bytes and sizes of files are passed in; what has to be done to files
is returned as a `Removal`. `Spool` carries it out, and so can a simulation.

- A segment is deleted when every consumer has acknowledged all of its pairs. The end of its epoch stays known, because a consumer
  may come back with an older cursor.
- When there is no room, the oldest segment is evicted, acknowledged or not.
- The open segment is never deleted, unless it holds no pair.
- After the disk has refused a pair, it is left alone for a second. While other programs fill it, at most one segment is evicted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from device.spool.consumers.consumers import Consumers, Refusal
from device.spool.inventory import Inventory
from device.spool.segment import Removal, Segment, Size, State

SEGMENT_BYTES = 64 << 20
FULL_KEPT = 1
"""Number of full segments that wait before they are sealed. By the time when the next one is full, a consumer that keeps up
has acknowledged the older one; it is then deleted unsealed, and the card is written once instead of twice."""
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Limits of what a spool may hold. Raises ValueError for limits that contradict each other."""

    max_bytes: int
    """Limit of all files together, bytes; at least four segments."""
    free_floor_bytes: int
    """Bytes that must stay free on the disk."""
    segment_bytes: int = 0
    """Size of one segment, bytes; 0 means 64 MiB, but between 1/1024 and 1/16 of `max_bytes`."""
    max_segments: int = 3072
    """Limit of the number of files: each run takes at least one, and a reply can name at most 4096 epochs."""
    max_emptied_epochs: int = 256
    """Number of epochs that are still named though no pair of them is left, so that a consumer that missed them counts the
    loss. A reply then names at most `max_segments` and these."""

    def __post_init__(self) -> None:
        if not self.segment_bytes:
            size_bytes = min(max(SEGMENT_BYTES, self.max_bytes // 1024), self.max_bytes // 16)
            object.__setattr__(self, "segment_bytes", size_bytes)
        if self.free_floor_bytes < 0 or not 0 < 4 * self.segment_bytes <= self.max_bytes:
            raise ValueError(
                f"no spool of {self.max_bytes} bytes in segments of {self.segment_bytes} bytes, with {self.free_floor_bytes} "
                "bytes left free on the disk, is possible: it must hold four segments"
            )


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """The state of the spool. `lost` and `unspooled` are counted since it was opened."""

    pairs: int
    """Pairs in the spool."""
    backlog: int
    """Pairs in the spool that some consumer has not acknowledged. If no consumer is known: that nobody has, also none of those
    that have left since the spool was opened."""
    bytes: int
    """Bytes that its segments take on the disk."""
    limits: SpoolLimits
    segments: int
    consumers: int
    oldest_age_s: float
    """Seconds since the oldest segment was begun (or last written, if an earlier process wrote it); 0 if there is none."""
    lost: Mapping[str, int]
    """Lost pairs that some consumer has not acknowledged, by cause: evicted (there was no room), rot (they cannot be read)."""
    unspooled: int
    """Pairs that the disk refused."""
    refused_consumers: Mapping[str, int]
    """Requests of consumers that no pairs are kept for, by reason (`Refusal`), since it was opened."""


class Disk(Enum):
    """The state of the disk, as the last attempts to write have shown it."""

    ACCEPTS = auto()
    STAYS_FULL = auto()
    """A segment was evicted because the disk was full, and no pair could be written since."""


class SpoolRules:
    """The rules of the spool, applied to an inventory and its consumers. Not thread-safe. Times are monotonic seconds."""

    def __init__(self, limits: SpoolLimits, inventory: Inventory, consumers: Consumers) -> None:
        self.limits, self.inventory, self.consumers = limits, inventory, consumers
        self.open: Segment | None = None
        self.unspooled = 0
        self._disk = Disk.ACCEPTS
        self._refused_s = float("-inf")
        self.refused_consumers = Counter(dict.fromkeys(Refusal, 0))
        """Number of requests of consumers that no pairs are kept for, by reason."""

    def may_write(self, now_s: float) -> bool:
        """Return whether to try to write a pair: not shortly after the disk has refused one."""
        return now_s - self._refused_s >= RETRY_S

    def make_room(self, more_bytes: int, free_bytes: int, now_s: float) -> tuple[bool, Removal]:
        """Make room for more bytes: delete what is acknowledged, then evict; return whether there is room, and what to delete.

        free_bytes: on the disk, before the removal.
        """
        removal = self.free(now_s) if self._is_short(more_bytes, free_bytes) else Removal()
        while self._is_short(more_bytes, free_bytes + removal.disk_bytes):
            evicted = self._evict_oldest()
            if not evicted.segments:
                return False, removal
            removal += evicted
        return True, removal

    def fits_open(self, seq: int, pair_bytes: int) -> bool:
        """Return whether pair `seq` can enter the open segment, because there is room and the numbers have no hole."""
        segment = self.open
        if segment is None or segment.end != seq:
            return False
        return segment.empty or segment.size.log_bytes + pair_bytes <= self.limits.segment_bytes

    def begin(self, segment: Segment) -> None:
        """Make this new segment the open one."""
        self.open = segment
        self.inventory.segments.append(segment)

    def close_open(self) -> Removal:
        """Close the open segment, so that nothing more is appended to it; it is deleted if it holds no pair."""
        segment, self.open = self.open, None
        if segment is None:
            return Removal()
        if segment.empty:
            return self.inventory.remove([segment])
        segment.state = State.FULL
        return Removal()

    def appended(self, segment: Segment, size: Size) -> None:
        """Record that the pair with number `segment.end` was written, and that the files of the segment now have this size."""
        segment.end, segment.size = segment.end + 1, size
        self._disk = Disk.ACCEPTS

    def write_failed(self, *, disk_full: bool) -> Removal:
        """Record that a pair could not be written, and return what to delete.

        On a full disk the oldest segment is evicted, but only once until a pair could be written again. Otherwise the file is
        damaged, and the next pair goes into a new segment.
        """
        removal = self.close_open()
        if disk_full and self._disk is Disk.ACCEPTS:
            self._disk = Disk.STAYS_FULL
            removal += self._evict_oldest()
        return removal

    def refused(self, now_s: float) -> None:
        """Record that all attempts to write a pair have failed."""
        self._refused_s = now_s

    def offered(self, seq: int, *, spooled: bool) -> None:
        """Record that pair `seq` is in the spool, or counts as refused; the next number will be higher."""
        self.inventory.end = seq + 1
        self.unspooled += not spooled

    def acknowledge(
        self, consumer: str, upto: Mapping[str, int], now_s: float, peer: str | None = None
    ) -> tuple[Refusal | None, Removal]:
        """Record that a consumer is there, and has made all pairs below `upto[epoch]` durable.

        Epochs and numbers that are not in the spool are ignored. peer: the name of the key that says so; None where there are no
        keys. Returns why no pairs are kept for the consumer (None if they are), and what to delete.
        """
        ends = self.inventory.epoch_ends()
        known = {epoch: min(seq, ends[epoch]) for epoch, seq in upto.items() if epoch in ends}
        refusal = self.consumers.register(
            consumer, now_s, peer, acknowledges=any(known.values()), tails=self.inventory.tails
        )
        if refusal is not None:
            self.refused_consumers[refusal] += 1
        elif not self.consumers.acknowledge(consumer, known):
            return None, Removal()
        return refusal, self.free(now_s)  # a refused one may get its place once a silent one is forgotten

    def free(self, now_s: float) -> Removal:
        """Delete what every consumer has acknowledged, and forget silent consumers.

        If there is no consumer, all pairs are kept.
        """
        self.consumers.forget(self.inventory.epoch_ends().keys(), now_s, self.inventory.tails().keys())
        if not len(self.consumers):
            return self._forget_surplus()
        closed = [segment for segment in self.inventory.segments if segment is not self.open]
        removal = self.inventory.remove(s for s in closed if not s.count_from(self.consumers.deletable(s.epoch, now_s)))
        emptied = self.inventory.emptied().items()
        self.inventory.free(name for name, one in emptied if self.consumers.deletable(name, now_s) >= one.end > 0)
        return removal + self._forget_surplus()

    def next_to_seal(self) -> Segment | None:
        """Return the oldest full segment; None if fewer than two segments are full, because the newest one is not sealed yet."""
        full = [segment for segment in self.inventory.segments if segment.state is State.FULL]
        return full[0] if len(full) > FULL_KEPT else None

    def sealed(self, segment: Segment, state: State, size: Size) -> None:
        """Record the result of sealing a segment: its state, SEALED or UNSEALABLE, and the size of its files."""
        if segment.state is not State.DELETED:
            segment.state, segment.size = state, size

    def awaited(self, since_s: float) -> dict[str, int]:
        """Return, by consumer, the number of pairs that it has not acknowledged yet.

        Only the consumers that have sent a message since `since_s` are included.
        """
        heard = self.consumers.heard_since(since_s)
        return {name: pairs for name, upto in heard.items() if (pairs := self.inventory.count_beyond(upto))}

    def stats(self, wall_s: float) -> SpoolStats:
        """Return the state of the spool. wall_s: seconds since 1970."""
        segments = self.inventory.segments
        acknowledged = {segment.epoch: self.consumers.acknowledged(segment.epoch) for segment in segments}
        return SpoolStats(
            pairs=self.inventory.count_beyond({}),
            backlog=self.inventory.count_beyond(acknowledged),
            bytes=sum(segment.size.disk_bytes for segment in segments),
            limits=self.limits,
            segments=len(segments),
            consumers=len(self.consumers),
            oldest_age_s=max(0.0, wall_s - segments[0].begun_s) if segments else 0.0,
            lost=dict(self.inventory.lost),
            unspooled=self.unspooled,
            refused_consumers={str(reason): count for reason, count in self.refused_consumers.items()},
        )

    def _is_short(self, more_bytes: int, free_bytes: int) -> bool:
        """Return whether a limit would be exceeded by `more_bytes` more. Bytes that sealing will write count as used."""
        segments = self.inventory.segments
        claimed_bytes = sum(segment.claimed_bytes for segment in segments)
        to_write_bytes = more_bytes + sum(segment.size.log_bytes for segment in segments)
        return (
            claimed_bytes + more_bytes > self.limits.max_bytes
            or free_bytes - to_write_bytes < self.limits.free_floor_bytes
            or len(segments) >= self.limits.max_segments
        )

    def _evict_oldest(self) -> Removal:
        """Delete the oldest segment that is not open."""
        segment = next((segment for segment in self.inventory.segments if segment is not self.open), None)
        if segment is None:
            return Removal()
        return self.inventory.evict(segment, self.consumers.acknowledged(segment.epoch)) + self._forget_surplus()

    def _forget_surplus(self) -> Removal:
        """If there are too many emptied epochs, forget the oldest freed ones, and others only if none is freed."""
        emptied = sorted(self.inventory.emptied().items(), key=lambda item: not item[1].freed)
        surplus = emptied[: max(0, len(emptied) - self.limits.max_emptied_epochs)]
        return self.inventory.forget([name for name, _ in surplus])
