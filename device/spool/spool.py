"""The rig's spool: every kept pair is on the disk before it is published, until each consumer has acknowledged it.

The pairs lie in SQLite, in segment files (`segment_file.py`). The newest one fills through a write-ahead log, with a commit for
each pair and one sync for all pairs of half a second; full ones become plain databases. The reasons are measurements
(`python -m benchmarks spool`: pairs of 358 kB, medians of 5 rounds, while other processes synced to the same disk, so that an
fsync took about 10 ms, as on a card):

    store                               MB/s   p99 of an append   a file that is cut off
    SQLite, rollback journal, synced      25              37 ms   nothing is readable
    the same, 16 pairs a commit          135              31 ms   nothing is readable; kill -9 loses the open 16
    SQLite, log, segments                104              29 ms   nothing is readable
    LMDB, synced                          61              20 ms   SIGBUS kills the process
    LMDB, synced at 0.5 s                489              10 ms   SIGBUS; a power cut may break the whole file
    this module                          175               8 ms   the lost pairs are named, the others given

With all of them a flipped bit comes back as wrong bytes, so each pair is verified by its own checksums. A log survives a power
cut in whatever order the disk writes, and segments are freed by unlinking, which rewrites nothing. The price: a sealed pair is
written twice (2.04 bytes for each byte), so sealing is delayed until consumers had time to acknowledge.

`rules` and `inventory` decide what is deleted, sealed or lost, without files, threads or clocks. This module carries it out.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Self

from device.spool.consumers.consumers import Consumers, Refusal
from device.spool.consumers.file import load_consumers, save_consumers, take_requests
from device.spool.folder import SpoolFolder
from device.spool.reply import Reply
from device.spool.rules import SpoolLimits, SpoolRules, SpoolStats
from device.spool.segment import Removal, State
from device.spool.segment_file import SegmentFile
from device.spool.threads import SealThread, SyncThread
from device.spool.writer import Writer
from stream.codec import to_parts
from stream.failures import Failures
from stream.live.backfill_messages import Reading, Span
from stream.pair import NAME, EncodedPair

FORGET_AFTER_S = 7 * 86400.0
GRACE_S = 60.0
LOG_INTERVAL_S = 10.0
MAX_NAME_SHOWN = 64
_REFUSALS = {
    Refusal.NAME: "a name is 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit",
    Refusal.OWNER: "the name belongs to the key of %(owner)s, and the key of %(peer)s used it; give each its own",
    Refusal.PLACES: "there are too many; one that is silent for a day gives its place",
}

log = logging.getLogger(__name__)


class Spool:
    """The pairs of a device, of earlier runs too, in a folder of its own. A `Shelf` of the backfill, and a context manager.

    One thread appends; other threads may call everything else at the same time.

    folder: made if it is missing; one process uses it at a time. device: whose pairs these are, as in `Header`. epoch: of this
    run; a new one by default. forget_after_s: a consumer that is silent for longer, while a rig runs, is forgotten, and no pairs
    are kept for it. trusted: the names of the keys that the rig lets in; None where there are no keys. grace_s: if the list of
    consumers begins empty, nothing is deleted for this time, because other consumers may come back.
    clock: monotonic seconds. wall: seconds since 1970. free_bytes: free bytes on the disk of a folder. on_sync: called by another
    thread with the seconds that each sync took. Raises SpoolError for a folder that cannot be used, ValueError for a device or
    epoch that cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        limits: SpoolLimits,
        *,
        device: str,
        epoch: str | None = None,
        forget_after_s: float = FORGET_AFTER_S,
        grace_s: float = GRACE_S,
        trusted: Collection[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        on_sync: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        if not NAME.fullmatch(device):
            raise ValueError(f"no spool is possible for a device with the name {device!r}")
        self.folder, self.device = folder, device
        self.epoch = uuid.uuid4().hex if epoch is None else epoch
        self._clock, self._wall, self._free_bytes = clock, wall, free_bytes
        self._read_s = float("-inf")
        self._failures = Failures(log, LOG_INTERVAL_S, clock=clock)
        self._closed = False
        self._changed = threading.Condition()  # guards rules and files
        self._saving = threading.Lock()
        self._consumers_path = folder / "consumers.json"
        self._files = SpoolFolder(folder, device, self.epoch)
        try:
            saved = load_consumers(self._consumers_path)
            consumers = Consumers(saved, now_s=clock(), forget_after_s=forget_after_s, grace_s=grace_s, trusted=trusted)
            self._inventory = self._files.take_inventory(saved.epochs)
            self._rules = SpoolRules(limits, self._inventory, consumers)
            unsealed = [file for segment, file in self._files.files.items() if segment.state is State.FULL]
            self._files.remove(self._rules.free(clock()))
        except BaseException:
            self._files.close()
            raise
        warn = partial(self._warn, "refused", "pairs are live only: %s")
        self._writer = Writer(self._rules, self._files, clock, wall, free_bytes=self.disk_free_bytes, on_refusal=warn)
        self._sync = SyncThread(
            unsealed, clock=clock, on_sync=on_sync, on_error=self._sync_failed, on_idle=self._save_consumers
        )
        warn = partial(self._warn, "seal", "%s could not be sealed: %s")
        self._sealing = SealThread(self._rules, self._files, changed=self._changed, on_error=warn)
        self._save_consumers()

    def append(self, pair: EncodedPair) -> bool:
        """Keep a pair. True: from now on it survives the death of this process, and from the next sync on a power cut.

        False: the disk refused it. It is counted, and its number is lost for consumers that missed it live. Raises ValueError
        for a pair of another device or epoch, or one that is not later than those before; errors of the disk are not raised.
        """
        header = pair.header
        if (header.device, header.epoch) != (self.device, self.epoch) or header.seq < self._inventory.end:
            raise ValueError(
                f"{header.name} is not pair {self._inventory.end} or later of {self.device}/{self.epoch[:8]}"
            )
        _, head, left, right = to_parts(pair)
        with self._changed:
            file = self._writer.append(header.seq, (head, left, right))
            self._changed.notify_all()
        if file is not None:
            self._sync.add(file)
        return file is not None

    def spans(self, *, freed: bool = False) -> list[Span]:
        """See `Shelf`."""
        with self._changed:
            return self._inventory.spans(freed=freed)

    def read(self, epoch: str, first: int, last: int, credit_bytes: int) -> Reading:
        """See `Shelf`. Every pair is verified before it is given; a pair that cannot be read is lost."""
        with self._changed:
            self._read_s = self._clock()
            plan, known_end = self._inventory.plan_read(epoch, first, last)
            parts = [(segment, end, self._files.files[segment]) for segment, end in plan]
        reply = Reply(self.device, epoch, first, credit_bytes)
        for segment, end, file in parts:
            reply.lose(segment.first)
            with file.reading() as row_of:
                unreadable = reply.extend(end, row_of)
            with self._changed:
                self._inventory.mark_unreadable(segment, unreadable)
            if reply.next < end:
                break
        else:
            reply.lose(known_end)
        return reply.reading()

    def register(self, consumer: str, peer: str | None = None) -> bool:
        """See `Shelf`, and `device.spool.consumers.consumers` for when a consumer is refused."""
        return self._acknowledge(consumer, {}, peer)

    def acknowledge(self, consumer: str, upto: Mapping[str, int], peer: str | None = None) -> None:
        """See `Shelf`. Epochs and numbers that are not in the spool are ignored."""
        self._acknowledge(consumer, upto, peer)

    def leave(self, consumer: str, peer: str | None = None) -> None:
        """See `Shelf`."""
        with self._changed:
            self._rules.consumers.leave(consumer, peer)
            self._remove(self._rules.free(self._clock()))
        self._save_consumers()

    def tend(self) -> None:
        """Forget the consumers that `device consumers --forget` has asked for; call it every few seconds."""
        for consumer in take_requests(self.folder):
            self.leave(consumer, self._rules.consumers.owner(consumer))

    def _acknowledge(self, consumer: str, upto: Mapping[str, int], peer: str | None) -> bool:
        with self._changed:
            refusal, removal = self._rules.acknowledge(consumer, upto, self._clock(), peer)
            self._remove(removal)
            if refusal is not None:
                why = _REFUSALS[refusal] % {"owner": self._rules.consumers.owner(consumer), "peer": peer}
                self._warn(
                    f"consumer: {refusal}", "no pairs are kept for consumer %r: %s", consumer[:MAX_NAME_SHOWN], why
                )
        self._save_consumers()
        return refusal is None

    def kept_from(self, consumer: str) -> dict[str, int] | None:
        """See `Shelf`."""
        with self._changed:
            found = self._rules.consumers.kept_from(consumer)
            return None if found is None else found.copy()

    def awaited(self, heard_within_s: float) -> dict[str, int]:
        """Return, by consumer, the number of pairs that it has not acknowledged yet.

        Only the consumers that have sent a message in the last `heard_within_s` seconds are included.
        """
        with self._changed:
            return self._rules.awaited(self._clock() - heard_within_s)

    def read_within(self, seconds: float) -> bool:
        """Return whether any consumer, with or without a name, has read during the last `seconds`."""
        with self._changed:
            return self._clock() - self._read_s < seconds

    def stats(self) -> SpoolStats:
        """Return the state of the spool."""
        with self._changed:
            return self._rules.stats(self._wall())

    def wait_sealed(self, timeout_s: float) -> bool:
        """Wait until all segments are sealed and closed that should be; return whether this happened within `timeout_s`."""
        return self._sealing.wait_idle(timeout_s)

    def disk_free_bytes(self) -> int:
        """Free bytes on the spool's disk. Raises OSError."""
        return self._free_bytes(self.folder)

    def close(self) -> None:
        """Sync, seal what is not acknowledged, and unlock the folder; idempotent. No other method may be called afterwards."""
        if self._closed:
            return
        self._closed = True
        self._sync.close()
        self._sealing.close()
        with self._changed:
            self._remove(self._rules.close_open() + self._rules.free(self._clock()))
        self._save_consumers(at_end=True)
        for segment in self._inventory.segments:
            if segment.state is State.FULL:
                self._sealing.seal(segment)
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _remove(self, removal: Removal) -> None:
        self._files.remove(removal)
        self._changed.notify_all()

    def _save_consumers(self, *, at_end: bool = False) -> None:
        with self._saving:
            with self._changed:
                saved = self._rules.to_save(self._clock(), at_end=at_end)
            if saved is None:
                return
            try:
                save_consumers(self._consumers_path, saved)
            except OSError as error:  # the old file stays: if the process is killed now, pairs are offered once more
                self._warn("save", "%s could not be saved: %s", self._consumers_path, error)
                done = self._rules.save_failed
            else:
                done = self._rules.saved
            with self._changed:
                done(self._clock())

    def _sync_failed(self, file: SegmentFile, error: OSError) -> None:
        with self._changed:
            self._warn("sync", "pairs could not be synced to the disk: %s", error)
            if self._rules.open is not None and self._files.files[self._rules.open] is file:
                self._remove(self._rules.close_open())

    def _warn(self, about: str, text: str, *values: object) -> None:
        """Log a warning, but not more often than every few seconds for each subject."""
        self._failures.add(about, text % values)
