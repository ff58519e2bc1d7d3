"""The rig's spool: every kept pair is on the disk before it is published, until each learner has acknowledged it.

SQLite in segment files (`segment.py`). The last one fills through a write-ahead log, with a commit a pair and one sync for
all pairs of half a second; full ones become plain databases. Why (`python -m benchmarks spool`: pairs of 358 kB, medians of 5
rounds, while others synced to the same disk, so that an fsync took about 10 ms, as on a card):

    store                               MB/s   p99 of an append   a cut file
    SQLite, rollback journal, synced      25              37 ms   nothing is readable
    the same, 16 pairs a commit          135              31 ms   nothing is readable; kill -9 loses the open 16
    SQLite, log, segments                104              29 ms   nothing is readable
    LMDB, synced                          61              20 ms   SIGBUS kills the process
    LMDB, synced at 0.5 s                489              10 ms   SIGBUS; a power cut may break the whole file
    this module                          175               8 ms   the pairs that are gone are named, the rest given

A flipped bit comes back as wrong bytes from every one of them, so each pair is verified by its own checksums. Against a power
cut a log is safe in whatever order the disk writes; segments are freed by unlinking, without rewriting anything. The price:
what is sealed is written twice (2.04 bytes a byte), so that is put off until a learner had time to acknowledge it.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from device.spool.answer import Answer
from device.spool.consumers import Consumers
from device.spool.epoch_end import Head, PastHead
from device.spool.folder import DEVICE, find, take
from device.spool.segment import Segment, is_full, row_bytes
from stream.codec import to_parts
from stream.live.backfill_messages import Reading, Row, Span
from stream.pair import EncodedPair
from stream.ranges import Ranges

SYNC_S = 0.5
SYNC_PAIRS = 16
"""What a power cut can take: pairs of the last half second, or the last 16, and what came while they were written."""
SEGMENT_BYTES = 64 << 20
MAX_SEGMENTS = 3072
"""Many short runs: an epoch takes a file at least, and an answer can name 4096 of them."""
MAX_GONE = 256
"""Evicted epochs that are still named, so that a learner that missed them whole counts what is lost."""
FULL_KEPT = 1
"""The newest full segment waits with its sealing until the next one is full: a learner that keeps up has acknowledged it
before, so that it is deleted unsealed and the card was written once, not twice."""
RETRY_S = 1.0
"""A disk that refused a pair is left alone for so long."""
SEAL_RETRY_S = 30.0
FORGET_AFTER_S = 7 * 86400.0
GRACE_S = 60.0
LOG_INTERVAL_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """The spool as it is now; `lost` and `unspooled` are counted since it was opened."""

    pairs: int
    """That lie in it."""
    backlog: int
    """Of these, not acknowledged by every learner; all of them while it knows none."""
    bytes: int
    max_bytes: int
    free_floor_bytes: int
    """What is to stay free on its disk."""
    segments: int
    consumers: int
    oldest_age_s: float
    """Since the oldest segment was begun (or last written, where an earlier process did); 0 while there is none."""
    lost: Mapping[str, int]
    """Pairs not acknowledged by every learner, by cause: evicted (no room was left), rot (they cannot be read)."""
    unspooled: int
    """Pairs that the disk refused."""


class Spool:
    """The pairs of a device, those of earlier runs too, in a folder of its own. A `Shelf` of the backfill; context manager.

    One thread appends; others may call everything else at the same time.

    folder: made where it is not there; one process has it at a time.
    device: whose pairs these are, as in `Header`. epoch: of this run; a new one by default.
    max_bytes: of all files, at least four segments of `segment_bytes` (64 MiB, but a 16th to a 1024th of max_bytes).
    free_floor_bytes: what stays free on the disk.
    forget_after_s: a learner that is silent for longer is not kept for any more.
    grace_s: how long nothing is deleted on the word of a list of learners that began empty: others may come back.
    clock: seconds, monotonic. wall: seconds since 1970. free_bytes: what is free on the disk of a folder.
    on_sync: is told how long each sync took, seconds, by a thread of the spool.
    Raises SpoolError for a folder that cannot be used, ValueError for bounds that cannot be.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str,
        max_bytes: int,
        free_floor_bytes: int,
        segment_bytes: int | None = None,
        epoch: str | None = None,
        forget_after_s: float = FORGET_AFTER_S,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        on_sync: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._segment_bytes = _segment_bytes(max_bytes) if segment_bytes is None else segment_bytes
        if not DEVICE.fullmatch(device) or free_floor_bytes < 0 or not 0 < 4 * self._segment_bytes <= max_bytes:
            raise ValueError(
                f"no spool of {max_bytes} bytes in segments of {self._segment_bytes}, {free_floor_bytes} free, for {device!r}"
            )
        self.device = device
        self.epoch = uuid.uuid4().hex if epoch is None else epoch
        self.folder, self._max_bytes, self._free_floor_bytes = folder, max_bytes, free_floor_bytes
        self._clock, self._wall, self._free_bytes, self._on_sync = clock, wall, free_bytes, on_sync
        self._head = 0
        self._head_file: Head | None = None
        self._open: Segment | None = None
        self._full: list[Segment] = []  # unsealed, oldest first; those deleted meanwhile are only to be closed
        self._unsynced: list[Segment] = []  # one entry a pair
        self._lost: Counter[str] = Counter(evicted=0, rot=0)
        self._unspooled = 0
        self._refused_s = float("-inf")
        self._eviction_helps = True
        self._logged_s: dict[str, float] = {}
        self._read_s = float("-inf")
        self._closing = False
        self._changed = threading.Condition()  # guards all of the above
        self._saving = threading.Lock()
        self._segments: list[Segment] = []
        self._lock = take(folder, device)
        try:
            self._segments, self._past = find(folder)
            if any(segment.epoch == self.epoch for segment in self._segments):
                raise ValueError(f"epoch {self.epoch} was used before")
            self._full += [segment for segment in self._segments if not segment.sealed]
            self._unsynced += self._full
            runs = [segment.run for segment in self._segments] + [past.run for past in self._past.values()]
            self._run = 1 + max(runs, default=0)
            self._consumers = Consumers(
                folder / "consumers.json", clock=clock, wall=wall, forget_after_s=forget_after_s, grace_s=grace_s
            )
            with self._changed:
                self._free_acknowledged()
        except BaseException:
            for segment in self._segments:
                segment.close()
            os.close(self._lock)
            raise
        self._threads = [
            threading.Thread(target=self._sync_often, name="spool-sync", daemon=True),
            threading.Thread(target=self._seal_often, name="spool-seal", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def append(self, pair: EncodedPair) -> bool:
        """Keep a pair; True where it survives the death of this process from now on, and a power cut from the next sync on.

        False where the disk refused it: it is counted, and its number is lost to those who missed it live. Raises ValueError
        for a pair that is not this spool's, or not later than those before; nothing for the disk's troubles.
        """
        header = pair.header
        if (header.device, header.epoch) != (self.device, self.epoch) or header.seq < self._head:
            raise ValueError(f"{header.name} is not pair {self._head} or later of {self.device}/{self.epoch[:8]}")
        _, head, left, right = to_parts(pair)
        with self._changed:
            spooled = self._try_append(header.seq, (head, left, right))
            self._head = header.seq + 1
            self._unspooled += not spooled
            if self._head_file is not None:
                self._head_file.write(self._head)
        return spooled

    def spans(self) -> list[Span]:
        """See Shelf."""
        with self._changed:
            bounds = {epoch: (past.head, past.head) for epoch, past in self._gone().items()}
            for segment in self._segments:
                tail, _ = bounds.get(segment.epoch, (segment.first, 0))
                bounds[segment.epoch] = tail, segment.end
            tail, _ = bounds.pop(self.epoch, (self._head, 0))
            earlier = [Span(epoch, tail, head, False) for epoch, (tail, head) in bounds.items()]
            return [*earlier, Span(self.epoch, tail, self._head, True)]

    def read(self, epoch: str, first: int, last: int, credit_bytes: int) -> Reading:
        """See Shelf. Every pair is verified before it is given; what cannot be read is lost."""
        with self._changed:
            self._read_s = self._clock()
            segments = [segment for segment in self._segments if segment.epoch == epoch and segment.end > first]
            stop = min(last, self._head) if epoch == self.epoch else last
        answer = Answer(self.device, first, credit_bytes)
        for segment in segments:
            if answer.next >= stop:
                break
            answer.lose(min(segment.first, stop))
            goes_on, rotten = answer.take(segment, min(segment.end, stop))
            if rotten:
                self._note_rot(segment, rotten)
            if not goes_on:
                return answer.reading()
        answer.lose(stop)
        return answer.reading()

    def register(self, consumer: str) -> None:
        """See Shelf. Nothing is kept for a name that cannot be, or for one too many."""
        with self._changed:
            self._consumers.hear(consumer)
        self._save_consumers()

    def acknowledge(self, consumer: str, upto: Mapping[str, int]) -> None:
        """See Shelf. Epochs and numbers that are not in the spool are not taken note of."""
        with self._changed:
            heads = {segment.epoch: segment.end for segment in self._segments}
            heads |= {epoch: past.head for epoch, past in self._past.items()} | {self.epoch: self._head}
            there = {epoch: min(seq, heads[epoch]) for epoch, seq in upto.items() if epoch in heads}
            if self._consumers.acknowledge(consumer, there):
                self._free_acknowledged()
        self._save_consumers()

    def awaited(self, heard_within_s: float) -> dict[str, int]:
        """How many pairs each learner that was heard of lately has still to acknowledge; without those that have all."""
        with self._changed:
            waiting = {
                name: sum(_beyond(segment, upto.get(segment.epoch, 0)) for segment in self._segments)
                for name, upto in self._consumers.heard_within(heard_within_s).items()
            }
        return {name: pairs for name, pairs in waiting.items() if pairs}

    def read_within(self, seconds: float) -> bool:
        """Whether somebody has read lately, with a name or without."""
        with self._changed:
            return self._clock() - self._read_s < seconds

    def stats(self) -> SpoolStats:
        """The spool as it is now."""
        with self._changed:
            segments = self._segments
            return SpoolStats(
                pairs=sum(_beyond(segment, 0) for segment in segments),
                backlog=sum(_beyond(segment, self._consumers.upto(segment.epoch)) for segment in segments),
                bytes=sum(segment.disk_bytes for segment in segments),
                max_bytes=self._max_bytes,
                free_floor_bytes=self._free_floor_bytes,
                segments=len(segments),
                consumers=len(self._consumers),
                oldest_age_s=max(0.0, self._wall() - segments[0].begun_s) if segments else 0.0,
                lost=dict(self._lost),
                unspooled=self._unspooled,
            )

    def wait_sealed(self, timeout_s: float) -> bool:
        """Wait until nothing is left to be sealed or closed but what is being filled and kept; whether it came to that."""
        with self._changed:
            return self._changed.wait_for(lambda: self._next_to_seal() is None, timeout_s)

    def disk_free_bytes(self) -> int:
        """What is free on its disk. Raises OSError."""
        return self._free_bytes(self.folder)

    def close(self) -> None:
        """Sync, seal what is not acknowledged, give the folder back; idempotent. Nobody may call anything else any more."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        with self._changed:
            self._roll()
            self._free_acknowledged()
        self._save_consumers()
        for segment in self._full:
            self._seal(segment)
        for segment in (*self._segments, *self._full):
            segment.close()
        if self._head_file is not None:
            ours = any(segment.epoch == self.epoch for segment in self._segments)
            self._head_file.close(delete=not ours and self._consumers.may_go(self.epoch) >= self._head)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _try_append(self, seq: int, row: Row) -> bool:
        if self._clock() - self._refused_s < RETRY_S:
            return False
        if row_bytes(row) > self._segment_bytes:
            why: str | None = f"one is larger than a segment of {self._segment_bytes} bytes, give the spool more room"
        else:  # twice: a full disk may have room after an eviction, a damaged segment is given up for a new one
            why = self._attempt(seq, row) and self._attempt(seq, row)
        if why is not None:
            self._refused_s = self._clock()
            self._complain("refused", "pairs are live only: %s count=%d", why, self._unspooled + 1)
        return why is None

    def _attempt(self, seq: int, row: Row) -> str | None:
        """Append a pair; returns why that is not possible."""
        try:
            if not self._make_room(2 * row_bytes(row)):
                return "nothing is left to delete, and so much of the disk must stay free"
            segment = self._segment_for(seq, row)
            segment.append(row)
        except (sqlite3.Error, OSError) as error:
            self._roll()
            if is_full(error) and self._eviction_helps:
                self._evict_oldest()
                self._eviction_helps = False  # until a pair goes in: a disk that others fill must not empty the spool
            return str(error)
        self._eviction_helps = True
        self._unsynced.append(segment)
        self._changed.notify_all()
        return None

    def _segment_for(self, seq: int, row: Row) -> Segment:
        """The open segment, or a new one where it is full, or its numbers would not go on without a hole."""
        segment = self._open
        fits = segment is not None and (segment.empty or segment.log_bytes + row_bytes(row) <= self._segment_bytes)
        if segment is None or segment.end != seq or not fits:
            self._roll()
            if self._head_file is None:
                self._head_file = Head(self.folder, run=self._run, epoch=self.epoch)
            segment = Segment.create(self.folder, run=self._run, epoch=self.epoch, first=seq, begun_s=self._wall())
            self._segments.append(segment)
            self._open = segment
        return segment

    def _roll(self) -> None:
        """Nothing more goes into the open segment."""
        if self._open is None:
            return
        segment, self._open = self._open, None
        if segment.empty:
            self._drop(segment)
        else:
            self._full.append(segment)
            self._changed.notify_all()

    def _make_room(self, more_bytes: int) -> bool:
        """Free what is acknowledged, then evict, until there is room for so much; the open segment stays."""
        short_bytes = self._short_bytes(more_bytes)
        if short_bytes > 0 or len(self._segments) >= MAX_SEGMENTS:
            self._free_acknowledged()
            short_bytes = self._short_bytes(more_bytes)
        while short_bytes > 0 or len(self._segments) >= MAX_SEGMENTS:
            freed_bytes = self._evict_oldest()
            if freed_bytes == 0:
                return False
            short_bytes -= freed_bytes
        return True

    def _short_bytes(self, more_bytes: int) -> int:
        """By how much the larger of the two bounds would be broken; what sealing will write is room taken already."""
        claimed = sum(segment.claimed_bytes for segment in self._segments)
        to_write = more_bytes + sum(segment.log_bytes for segment in self._segments)
        return max(
            claimed + more_bytes - self._max_bytes,
            self._free_floor_bytes + to_write - self._free_bytes(self.folder),
        )

    def _evict_oldest(self) -> int:
        """Bytes that came free: 0 where only the open segment is left."""
        segment = next((segment for segment in self._segments if segment is not self._open), None)
        if segment is None:
            return 0
        first = max(segment.first, self._consumers.upto(segment.epoch))
        needed = max(0, segment.end - first)
        self._lose("evicted", segment, first, segment.end, needed - segment.rotten.overlap(first, segment.end))
        freed_bytes = max(1, segment.claimed_bytes)
        self._drop(segment)
        for epoch in list(self._gone())[:-MAX_GONE]:
            self._past.pop(epoch).delete()
        return freed_bytes

    def _gone(self) -> dict[str, PastHead]:
        """The earlier epochs of which nothing lies here any more, but not every learner knows it."""
        there = {segment.epoch for segment in self._segments}
        return {epoch: past for epoch, past in self._past.items() if epoch not in there}

    def _note_rot(self, segment: Segment, rotten: Ranges) -> None:
        ranges = list(rotten)
        with self._changed:
            new = sum(segment.rotten.add(first, end) for first, end in ranges)
            self._lose("rot", segment, ranges[0][0], ranges[-1][1], new)

    def _save_consumers(self) -> None:
        with self._saving:
            with self._changed:
                data = self._consumers.to_save()
            if data is not None:
                self._consumers.save(data)

    def _lose(self, cause: str, segment: Segment, first: int, end: int, count: int) -> None:
        if count > 0 and not segment.dropped:
            self._lost[cause] += count
            log.warning("LOST [%d, %d) epoch=%s cause=%s pairs=%d", first, end, segment.epoch, cause, count)

    def _free_acknowledged(self) -> None:
        """Delete what every learner has; what no learner is known to want is kept."""
        self._consumers.forget({segment.epoch for segment in self._segments} | self._past.keys() | {self.epoch})
        if len(self._consumers) == 0:
            return
        for segment in self._segments.copy():
            if segment is not self._open and _beyond(segment, self._consumers.may_go(segment.epoch)) == 0:
                self._drop(segment)
        for epoch, past in self._gone().items():
            if self._consumers.may_go(epoch) >= past.head:
                self._past.pop(epoch).delete()

    def _drop(self, segment: Segment) -> None:
        self._segments.remove(segment)
        segment.drop()
        if segment not in self._full:
            self._full.append(segment)
        self._changed.notify_all()

    def _sync_often(self) -> None:
        """The thread that makes pairs survive a power cut: some at a time, and none waits for longer than SYNC_S."""
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._unsynced or self._closing)
                self._changed.wait_for(lambda: len(self._unsynced) >= SYNC_PAIRS or self._closing, SYNC_S)
                segments, self._unsynced = dict.fromkeys(self._unsynced), []
                closing = self._closing
            for segment in segments:
                self._sync(segment)

    def _sync(self, segment: Segment) -> None:
        started_s = self._clock()
        try:
            segment.sync()
        except OSError as error:
            with self._changed:
                self._complain("sync", "pairs could not be synced to the disk: %s", error)
                if segment is self._open:
                    self._roll()
        self._on_sync(self._clock() - started_s)

    def _seal_often(self) -> None:
        """The thread that turns full segments into plain ones."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._next_to_seal() is not None)
                segment = self._next_to_seal()
                if self._closing or segment is None:
                    return
            sealed = self._seal(segment)
            with self._changed:
                if segment.dropped:
                    segment.close()
                if sealed or segment.dropped:
                    self._full.remove(segment)
                    self._changed.notify_all()
                else:
                    self._changed.wait_for(lambda: self._closing, SEAL_RETRY_S)

    def _next_to_seal(self) -> Segment | None:
        dropped = next((segment for segment in self._full if segment.dropped), None)
        return dropped or (self._full[0] if len(self._full) > FULL_KEPT else None)

    def _seal(self, segment: Segment) -> bool:
        """False where it is to be tried again, because the disk is full; a damaged one stays as it is."""
        try:
            segment.seal()
        except (sqlite3.Error, OSError) as error:
            if not segment.dropped:
                with self._changed:
                    self._complain("seal", "%s could not be sealed: %s", segment.path, error)
            return not is_full(error)
        return True

    def _complain(self, about: str, text: str, *values: object) -> None:
        now_s = self._clock()
        if now_s - self._logged_s.get(about, float("-inf")) >= LOG_INTERVAL_S:
            self._logged_s[about] = now_s
            log.warning(text, *values)


def _segment_bytes(max_bytes: int) -> int:
    return min(max(SEGMENT_BYTES, max_bytes // 1024), max_bytes // 16)


def _beyond(segment: Segment, upto: int) -> int:
    """How many of its pairs are not below `upto`."""
    return segment.end - min(max(segment.first, upto), segment.end)
