"""A camera as a source of pairs in this process: what a learner reads without a rig, and what `record` writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Condition, Thread

from device.camera import CameraError
from stream.errors import EndOfStream, StreamError
from stream.identity_set import IdentitySet
from stream.live.pair_queue import PairQueue
from stream.pair import EncodedPair
from stream.source import Cursor, OnDemandSource

AHEAD_PAIRS = 32
AHEAD_BYTES = 64 << 20
"""Pairs that are made before they are requested, beside the step of a learner; beyond one of these bounds the camera waits."""
JOIN_S = 5.0
"""A camera that hangs for so long is closed under its thread."""


class CameraSource(OnDemandSource):
    """Gives the pairs of one camera in their order; satisfies `stream.source.Source`.

    A thread of its own makes them, a few ahead of the requests. It goes through all pairs from the first one, and leaves out
    those that the cursor names: so equal pairs, such as those of a folder, a film or the simulator, go on where they stopped.

    pairs: called once, on that thread, with a function that says whether to end; its pairs are of one epoch.
    cursor: of an earlier such source, or of a recording; raises ValueError for another one. is_live: whether pairs come at their
    own pace; those that wait are then the backlog. close: called once the thread has ended.
    """

    def __init__(
        self,
        pairs: Callable[[Callable[[], bool]], Iterable[EncodedPair]],
        *,
        cursor: Cursor | None = None,
        is_live: bool = False,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._given = IdentitySet(cursor)
        self._skipped = IdentitySet(cursor)
        self._is_live = is_live
        self._close = close
        self._queue = PairQueue(AHEAD_PAIRS, AHEAD_BYTES)
        self._changed = Condition()
        self._closed = False
        self._ended: BaseException | None = None
        self._thread = Thread(target=self._make, args=(pairs,), name="camera", daemon=True)
        self._thread.start()

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        """See Source. Raises StreamError for a camera that failed, once all earlier pairs were returned."""
        if limit < 1:
            raise ValueError(f"limit must be at least 1 pair, got {limit}")
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._holds(limit), timeout_s)
            pairs = self._queue.pop(limit)
            self._changed.notify_all()
            if not pairs and self._ended is not None:
                raise self._ended
        for pair in pairs:
            self._given.add(pair.header)
        return pairs

    def backlog(self) -> int:
        """Return how many pairs of a live camera wait; 0 for another one, which makes them on demand."""
        with self._changed:
            return len(self._queue) if self._is_live else 0

    def cursor(self) -> Cursor:
        """See Source."""
        return self._given.cursor()

    def close(self) -> None:
        """End the thread and close the camera; idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(JOIN_S)
        close, self._close = self._close, lambda: None
        close()

    def _make(self, pairs: Callable[[Callable[[], bool]], Iterable[EncodedPair]]) -> None:
        ended: BaseException = EndOfStream("the camera has given its last pair")
        try:
            for pair in pairs(self._is_closed):
                if pair.header not in self._skipped and not self._put(pair):
                    break
        except CameraError as error:
            ended = StreamError(str(error))
            ended.exit_code = error.exit_code
        except BaseException as error:  # raised again where the pairs are received
            ended = error
        with self._changed:
            self._ended = ended
            self._changed.notify_all()

    def _put(self, pair: EncodedPair) -> bool:
        """Wait for room and append a pair; return False once the source is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._queue.has_room())
            if not self._closed:
                self._queue.extend([pair])
                self._changed.notify_all()
            return not self._closed

    def _holds(self, limit: int) -> bool:
        """Return whether there is enough to return: of a live camera any pair, else as many as are wanted or fit."""
        count = len(self._queue)
        return count >= (1 if self._is_live else limit) or not self._queue.has_room()

    def _is_closed(self) -> bool:
        return self._closed
