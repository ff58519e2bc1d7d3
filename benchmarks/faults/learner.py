"""A learner for the faults bench: the real subscriber and store, without training. It commits the list of the pairs that entered.

An item of the store is the pair's header as received, the checksum of its images as received, and the time. The cursor is
committed with the list in one transaction, then acknowledged. A process that is started again continues from the newest commit.
"""

from __future__ import annotations

import logging
import struct
import sys
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.shared.processes import Orders, report
from buffer.patience import Patience
from buffer.store import Store
from stream import codec
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair
from stream.source import Cursor

COMMIT_S = 0.3
FULL_S = 0.2
"""Pause before a write to a full disk is tried again."""
AT_ONCE = 64
WORK_S = 0.01
"""Pause between receiving pairs and committing them, as long as a training step; other pairs wait in the queue until then."""
_TAIL = struct.Struct("<Iq")


class ListingLearner:
    """Receives from the endpoints, lists and commits, until the order to stop arrives."""

    def __init__(self, store: Path, endpoints: Sequence[str]) -> None:
        self._orders = Orders()
        self._store = Store(store, patience=Patience(FULL_S))
        commits = self._store.commits()
        self._count = commits[0].keys.size if commits else 0
        cursor: Cursor | None = msgspec.json.decode(commits[0].note) if commits else None
        self._source = Subscriber(endpoints, consumer=self._store.identity, cursor=cursor)
        self._devices = len(endpoints)
        self._committing: tuple[Future[None], Cursor] | None = None

    def run(self) -> None:
        """Do all work in this thread; the store writes in its own."""
        while len(self._source.stats().devices) < self._devices and not self._orders.stop.wait(0.01):
            pass  # a rig that does not know this learner yet keeps no pairs for it
        self._commit()
        self._finish_commit()
        report("ready")
        due_s = 0.0
        while not self._orders.stop.is_set():
            self._receive(0.05)
            time.sleep(WORK_S)
            if self._committing is not None and self._committing[0].done():
                self._finish_commit()
            if self._committing is None and time.monotonic() >= due_s:
                self._commit()
                due_s = time.monotonic() + COMMIT_S
        while self._receive(0.0):
            pass
        self._finish_commit()
        self._commit()
        self._finish_commit()
        stats = self._source.stats()
        self._source.close()
        self._store.close()
        report("malformed", msgspec.json.encode(stats.malformed).decode())

    def _receive(self, timeout_s: float) -> bool:
        pairs = self._source.receive(AT_ONCE, timeout_s)
        now_ns = time.monotonic_ns()
        for pair in pairs:
            self._store.put(self._count, _item(pair, now_ns))
            self._count += 1
        return bool(pairs)

    def _commit(self) -> None:
        cursor = self._source.cursor()
        done = self._store.commit(np.arange(self._count), msgspec.json.encode(cursor))
        self._committing = done, cursor

    def _finish_commit(self) -> None:
        if self._committing is None:
            return
        (done, cursor), self._committing = self._committing, None
        done.result()
        self._source.acknowledge(cursor)
        report("committed", msgspec.json.encode(cursor).decode())


def _item(pair: EncodedPair, now_ns: int) -> bytes:
    return codec.to_parts(pair)[1] + _TAIL.pack(zlib.crc32(pair.right, zlib.crc32(pair.left)), now_ns)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    ListingLearner(Path(sys.argv[1]), sys.argv[2:]).run()
