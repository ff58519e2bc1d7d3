"""A rig's spool in memory: a `stream.live.backfill_messages.Shelf` that tests fill, damage and look into."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from stream.codec import to_parts
from stream.live.backfill_messages import MAX_ROWS, PairParts, Reading, Span
from stream.pair import EncodedPair
from stream.ranges import Ranges


@dataclass
class _Epoch:
    tail: int = 0
    head: int = 0
    rows: dict[int, PairParts] = field(default_factory=dict)


class MemoryShelf:
    """Keeps pairs until every consumer has acknowledged them; without any, for ever. Thread-safe."""

    def __init__(self, device: str = "baby", epoch: str = "a" * 32) -> None:
        self.device = device
        self.consumers: dict[str, dict[str, int]] = {}
        self.reads: list[tuple[str, int, int]] = []
        """What was asked for."""
        self.trouble: Exception | None = None
        """Raised by everything that is asked."""
        self._lock = threading.Lock()
        self._epochs: dict[str, _Epoch] = {}
        self.begin(epoch)

    def begin(self, epoch: str) -> None:
        """The rig has started again."""
        with self._lock:
            self._open = epoch
            self._epochs[epoch] = _Epoch()

    def append(self, pairs: Iterable[EncodedPair]) -> None:
        with self._lock:
            for pair in pairs:
                epoch = self._epochs[pair.header.epoch]
                epoch.head = pair.header.seq + 1
                _, head, left, right = to_parts(pair)
                epoch.rows[pair.header.seq] = head, left, right

    def evict(self, tail: int, epoch: str | None = None) -> None:
        with self._lock:
            self._free(epoch or self._open, tail)

    def rot(self, *seqs: int, row: PairParts | None = None) -> None:
        """These pairs cannot be read any more, or are something else."""
        with self._lock:
            for seq in seqs:
                self._epochs[self._open].rows.pop(seq)
                if row is not None:
                    self._epochs[self._open].rows[seq] = row

    def held(self) -> int:
        """How many pairs there are."""
        with self._lock:
            return sum(len(epoch.rows) for epoch in self._epochs.values())

    def spans(self, *, freed: bool = False) -> list[Span]:
        """See Shelf. What is freed is forgotten."""
        with self._lock:
            self._check()
            return [
                Span(name, epoch.tail, epoch.head, name == self._open)
                for name, epoch in self._epochs.items()
                if name == self._open or epoch.tail < epoch.head
            ]

    def read(self, epoch: str, first: int, last: int, credit_bytes: int) -> Reading:
        """See Shelf."""
        with self._lock:
            self._check()
            self.reads.append((epoch, first, last))
            book = self._epochs.get(epoch, _Epoch())
            stop = min(last, book.head) if epoch == self._open else last
            rows: list[PairParts] = []
            lost = Ranges([(first, min(stop, book.tail)), (max(first, book.head), stop)])
            for seq in range(max(first, book.tail), min(stop, book.head)):
                row = book.rows.get(seq)
                if row is None:
                    lost.add(seq, seq + 1)
                elif len(rows) == MAX_ROWS or (rows and len(row[1]) + len(row[2]) > credit_bytes):
                    return Reading(seq, [(a, min(b, seq)) for a, b in lost if a < seq], rows)
                else:
                    rows.append(row)
                    credit_bytes -= len(row[1]) + len(row[2])
            return Reading(max(first, stop), list(lost), rows)

    def register(self, consumer: str, peer: str | None = None) -> bool:
        """See Shelf."""
        with self._lock:
            self._check()
            self.consumers.setdefault(consumer, {})
            return True

    def kept_from(self, consumer: str) -> None:
        """See Shelf."""

    def acknowledge(self, consumer: str, upto: Mapping[str, int], peer: str | None = None) -> None:
        """See Shelf."""
        with self._lock:
            self._check()
            known = self.consumers.setdefault(consumer, {})
            for epoch, seq in upto.items():
                known[epoch] = max(seq, known.get(epoch, 0))
            for name in self._epochs:
                self._free(name, min(known.get(name, 0) for known in self.consumers.values()))

    def leave(self, consumer: str, peer: str | None = None) -> None:
        """See Shelf."""
        with self._lock:
            self.consumers.pop(consumer, None)

    def _free(self, name: str, tail: int) -> None:
        epoch = self._epochs[name]
        epoch.tail = max(epoch.tail, min(tail, epoch.head))
        epoch.rows = {seq: row for seq, row in epoch.rows.items() if seq >= epoch.tail}

    def _check(self) -> None:
        if self.trouble is not None:
            raise self.trouble
