"""What the two threads of a subscriber share: the pairs that wait for the learner, and the ledger over them, behind one lock.

The subscriber's thread enters messages, and the learner's thread receives pairs. Nothing here knows a socket.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from stream.errors import EndOfStream, StreamError
from stream.live.announcements import Announcement
from stream.live.backfill_messages import Reply
from stream.live.backfill_plan import BackfillPlan
from stream.live.ledger import Ledger
from stream.live.pair_queue import PairQueue
from stream.pair import EncodedPair, Header
from stream.source import Cursor
from stream.stats import SourceStats


class Inbox:
    """Pairs that have arrived and wait for the learner. Any thread may call any method.

    devices_to_end: the stream has ended when at least so many devices were heard and all of them have ended; None: it never ends.
    clock: monotonic seconds.
    """

    def __init__(
        self, ledger: Ledger, queue: PairQueue, *, devices_to_end: int | None, clock: Callable[[], float]
    ) -> None:
        self._ledger, self._queue = ledger, queue
        self._devices_to_end, self._clock = devices_to_end, clock
        self._acknowledged: Cursor | None = None
        self._failure: Exception | None = None
        self._closed = False
        self._changed = threading.Condition()

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        """See `Source`. Raises StreamError after `fail`, once all earlier pairs were returned."""
        if limit < 1:
            raise ValueError(f"limit must be at least 1 pair, got {limit}")
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_over(), timeout_s)
            pairs = self._queue.pop(limit)
            self._ledger.deliver(pairs)
            self._changed.notify_all()
            if pairs:
                return pairs
            if self._failure is not None:
                raise StreamError(f"receiving has stopped: {self._failure}") from self._failure
            if self._is_over():
                raise EndOfStream("the subscriber is closed" if self._closed else "every device has said bye")
            return []

    def backlog(self) -> int:
        """Return the number of pairs that wait."""
        return len(self._queue)

    def cursor(self) -> Cursor:
        """See `Source`."""
        with self._changed:
            return self._ledger.cursor()

    def acknowledge(self, cursor: Cursor) -> None:
        """Keep a cursor until `tell_acknowledged` passes it on."""
        with self._changed:
            self._acknowledged = cursor

    def spoil(self, header: Header) -> None:
        """See `Source`."""
        with self._changed:
            self._ledger.spoil(header)

    def stats(self) -> SourceStats:
        """Return the statistics of the ledger."""
        with self._changed:
            return self._ledger.stats()

    def enter_live(self, message: EncodedPair | Announcement, endpoint: int) -> None:
        """Enter a message of the live stream of an endpoint. Raises MalformedMessage."""
        now_s = self._clock()
        with self._changed:
            if not isinstance(message, EncodedPair):
                self._ledger.receive_announcement(message, now_s, endpoint)
            elif self._ledger.receive(message, now_s, endpoint):
                self._enqueue([message])
            self._changed.notify_all()

    def enter_reply(self, plan: BackfillPlan, reply: Reply, pairs: Sequence[EncodedPair]) -> None:
        """Enter the reply of a spool, and its pairs, by the plan for this spool. Raises MalformedMessage."""
        with self._changed:
            self._enqueue(plan.receive(reply, pairs, self._ledger))
            self._changed.notify_all()

    def tell_acknowledged(self, plans: Iterable[BackfillPlan]) -> None:
        """Tell each plan what was acknowledged since the last call."""
        with self._changed:
            cursor, self._acknowledged = self._acknowledged, None
            if cursor is not None:
                for plan in plans:
                    plan.acknowledge(self._ledger, cursor)

    @contextmanager
    def reading(self) -> Iterator[tuple[Ledger, bool]]:
        """Hold the lock; give the ledger, and whether more pairs are wanted."""
        with self._changed:
            yield self._ledger, self._queue.has_room() and not self._closed

    def has_room(self) -> bool:
        """Return whether there is room for more pairs."""
        return self._queue.has_room()

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until there is room or the inbox is closed; return whether this happened within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._queue.has_room() or self._closed, timeout_s)

    @property
    def is_closed(self) -> bool:
        """Whether no pair enters any more."""
        return self._closed

    def close(self) -> None:
        """Let no pair enter any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Drop the pairs that wait; no commit holds them, so they are sent again to the next process."""
        with self._changed:
            self._queue.clear()

    def fail(self, error: Exception) -> None:
        """Let `receive` raise an error instead of waiting for pairs."""
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def _is_over(self) -> bool:
        ended = self._devices_to_end is not None and self._ledger.all_ended(self._devices_to_end, self._clock())
        return ended or self._closed or self._failure is not None

    def _enqueue(self, pairs: Sequence[EncodedPair]) -> None:
        if not self._closed:
            self._queue.extend(pairs)
