"""Recordings as a source of pairs: as fast as they can be read, or at the pace of the rig that made them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from stream.errors import EndOfStream, StreamError
from stream.identity_set import IdentitySet
from stream.pair import EncodedPair, Header
from stream.recording.foreign import EyeTopics
from stream.recording.levels import Levels
from stream.recording.reader import open_recording
from stream.source import Cursor, OnDemandSource

log = logging.getLogger(__name__)

MAX_REASONS = 4
MAX_PAUSE_S = 60.0
"""Replay does not wait for a longer pause of a rig, or a jump of its clock."""


class RecordingSource(OnDemandSource):
    """Gives the pairs of recordings, one file after the other; satisfies `stream.source.Source`.

    cursor: of an earlier source, whose pairs are skipped. No pair is given twice, even if two files hold it.
    speed: 0 gives pairs as fast as they are requested; otherwise at this multiple of real time, by their capture times within
    an epoch. A pause of more than MAX_PAUSE_S, and the time between two epochs, is left out.
    topics, device: of another tool's recordings. clock, sleep: seconds.
    Raises StreamError in one line if a file is no recording, ValueError for an unusable cursor or speed.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        *,
        cursor: Cursor | None = None,
        speed: float = 0.0,
        topics: EyeTopics | None = None,
        device: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not (0 <= speed < math.inf):
            raise ValueError(f"the speed must be a multiple of real time, or 0 for as fast as possible; got {speed}")
        files = [Path(path) for path in paths]
        for path in files:
            with open_recording(path, topics, device):
                pass  # a wrong name is reported before the first pair, not hours later
        self._given = IdentitySet(cursor)
        self._pairs = _in_turn(files, topics, device)
        self._ahead: EncodedPair | None = None
        self._ended: StreamError | None = None
        self._pace = _Pace(speed, clock)
        self._clock, self._sleep = clock, sleep

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        """See Source. Raises StreamError if the rest of a file cannot be read, once all earlier pairs were returned."""
        if limit < 1:
            raise ValueError(f"limit must be at least 1 pair, got {limit}")
        pairs: list[EncodedPair] = []
        deadline_s = self._clock() + timeout_s
        while len(pairs) < limit and (ahead := self._look_ahead()) is not None:
            now_s = self._clock()
            if now_s >= self._pace.due_s:
                self._given.add(ahead.header)
                pairs.append(ahead)
                self._ahead = None
            elif pairs or now_s >= deadline_s:
                break
            else:
                self._sleep(min(self._pace.due_s, deadline_s) - now_s)
        if not pairs and self._ended is not None:
            raise self._ended
        return pairs

    def cursor(self) -> Cursor:
        """See Source."""
        return self._given.cursor()

    def close(self) -> None:
        """Close the file; idempotent."""
        self._ended = self._ended or EndOfStream("the recording is closed")
        self._ahead = None
        self._pairs.close()

    def _look_ahead(self) -> EncodedPair | None:
        """Return the next pair; None if there is none, and then `_ended` holds the reason."""
        if self._ahead is None and self._ended is None:
            try:
                self._ahead = next(pair for pair in self._pairs if pair.header not in self._given)
                self._pace.next(self._ahead.header)
            except StopIteration:
                self._ended = EndOfStream("the recording has given its last pair")
            except StreamError as error:
                self._ended = error
        return self._ahead


class _Pace:
    """Decides when the next pair is due."""

    def __init__(self, speed: float, clock: Callable[[], float]) -> None:
        self.due_s = -math.inf
        self._speed = speed
        self._clock = clock
        self._last: dict[tuple[str, str], tuple[int, float]] = {}  # by epoch: capture time, due time

    def next(self, header: Header) -> None:
        """Set `due_s` for the pair of this header."""
        if not self._speed:
            return
        epoch = (header.device, header.epoch)
        self.due_s = self._clock()
        if epoch in self._last:
            captured_ns, due_s = self._last[epoch]
            step_s = (header.left_ns - captured_ns) / 1e9
            if 0 <= step_s <= MAX_PAUSE_S:
                self.due_s = due_s + step_s / self._speed
        self._last[epoch] = header.left_ns, self.due_s


def _in_turn(paths: Sequence[Path], topics: EyeTopics | None, device: str | None) -> Generator[EncodedPair, None, None]:
    """Yield the pairs of all files. A file without a pair is told; raises StreamError if none of them has one."""
    count, reasons, levels = 0, [], list[Levels]()
    for path in paths:
        with open_recording(path, topics, device, levels) as reader:
            yield from reader
            count += reader.pairs
            if why := reader.why_empty():
                reasons.append(why)
                if len(paths) > 1:
                    log.warning("%s", why)
    if reasons and not count:
        raise StreamError("; ".join(reasons[:MAX_REASONS]))
