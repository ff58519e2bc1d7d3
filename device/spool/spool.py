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

import shutil
import time
import uuid
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from device.spool.consumers.consumers import Consumers
from device.spool.consumers.file import CONSUMERS, load_consumers, take_requests
from device.spool.folder import SpoolFolder
from device.spool.rules import SpoolLimits, SpoolRules, SpoolStats
from device.spool.segment import State
from device.spool.segment_file import SegmentFile
from device.spool.shelf import SpoolShelf
from device.spool.threads import SealThread, SyncThread
from device.spool.writer import Writer
from stream.closeable import Closeable
from stream.codec import to_parts
from stream.pair import NAME, EncodedPair

FORGET_AFTER_S = 7 * 86400.0
GRACE_S = 60.0


class Spool(SpoolShelf, Closeable):
    """The pairs of a device, of earlier runs too, in a folder of its own. Context manager.

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
        self.folder = folder
        self.epoch = uuid.uuid4().hex if epoch is None else epoch
        self._wall, self._free_bytes = wall, free_bytes
        self._closed = False
        files = SpoolFolder(folder, device, self.epoch)
        try:
            saved = load_consumers(folder / CONSUMERS)
            consumers = Consumers(saved, now_s=clock(), forget_after_s=forget_after_s, grace_s=grace_s, trusted=trusted)
            rules = SpoolRules(limits, files.take_inventory(saved.epochs), consumers)
            unsealed = [file for segment, file in files.files.items() if segment.state is State.FULL]
            files.remove(rules.free(clock()))
        except BaseException:
            files.close()
            raise
        super().__init__(device, rules, files, clock=clock)
        warn = partial(self._warn, "refused", "pairs are live only: %s")
        self._writer = Writer(self._rules, self._files, clock, wall, free_bytes=self.disk_free_bytes, on_refusal=warn)
        self._sync = SyncThread(
            unsealed, clock=clock, on_sync=on_sync, on_error=self._sync_failed, on_idle=self._list.save
        )
        warn = partial(self._warn, "seal", "%s could not be sealed: %s")
        self._sealing = SealThread(self._rules, self._files, changed=self._changed, on_error=warn)
        self._list.save()

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

    def tend(self) -> None:
        """Forget the consumers that `device consumers --forget` has asked for; call it every few seconds."""
        for consumer in take_requests(self.folder):
            self.leave(consumer, self._rules.consumers.owner(consumer))

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
        self._list.save(at_end=True)
        for segment in self._inventory.segments:
            if segment.state is State.FULL:
                self._sealing.seal(segment)
        self._files.close()

    def _sync_failed(self, file: SegmentFile, error: OSError) -> None:
        with self._changed:
            self._warn("sync", "pairs could not be synced to the disk: %s", error)
            if self._rules.open is not None and self._files.files[self._rules.open] is file:
                self._remove(self._rules.close_open())
