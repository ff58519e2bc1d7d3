"""The side of a spool that consumers see: the backfill server asks here for spans and pairs, and passes acknowledgements on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial

from device.spool.consumers.file import CONSUMERS, ConsumersFile
from device.spool.consumers.saving import Saving
from device.spool.folder import SpoolFolder
from device.spool.reply import Reply
from device.spool.rules import SpoolRules
from device.spool.segment import Removal, Segment
from stream.failures import Failures
from stream.live.backfill_messages import Reading, Span
from stream.ranges import Ranges

LOG_INTERVAL_S = 10.0
MAX_NAME_SHOWN = 64

log = logging.getLogger(__name__)


class SpoolShelf:
    """A `Shelf` of the backfill over the rules and files of a spool. Any thread may call any method.

    device: as in `Header`. clock: monotonic seconds.
    """

    def __init__(self, device: str, rules: SpoolRules, files: SpoolFolder, *, clock: Callable[[], float]) -> None:
        self.device = device
        self._rules, self._inventory, self._files, self._clock = rules, rules.inventory, files, clock
        self._read_s = float("-inf")
        self._failures = Failures(log, LOG_INTERVAL_S, clock=clock)
        self._changed = threading.Condition()  # guards rules and files
        self._list = ConsumersFile(
            files.path / CONSUMERS,
            Saving(rules.consumers, rules.inventory),
            lock=self._changed,
            clock=clock,
            on_error=partial(self._warn, "save", "%s could not be saved: %s"),
        )

    def spans(self, *, freed: bool = False) -> list[Span]:
        """See `Shelf`."""
        with self._changed:
            return self._inventory.spans(freed=freed)

    def read(self, epoch: str, first: int, last: int, credit_bytes: int) -> Reading:
        """See `Shelf`. Every pair is verified before it is given; a pair that cannot be read is lost."""
        with self._changed:
            self._read_s = self._clock()
            plan, known_end = self._inventory.plan_read(epoch, first, last)
            files = {segment: self._files.files[segment] for segment, _ in plan}
        reply = Reply(self.device, epoch, first, credit_bytes)
        return reply.fill(
            plan, known_end, rows_of=lambda segment: files[segment].reading(), on_rot=self._mark_unreadable
        )

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
        self._list.save()

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

    def _acknowledge(self, consumer: str, upto: Mapping[str, int], peer: str | None) -> bool:
        with self._changed:
            refusal, removal = self._rules.acknowledge(consumer, upto, self._clock(), peer)
            self._remove(removal)
            if refusal is not None:
                why = refusal.explain(self._rules.consumers.owner(consumer), peer)
                shown = consumer[:MAX_NAME_SHOWN]
                self._warn(f"consumer: {refusal}", "no pairs are kept for consumer %r: %s", shown, why)
        self._list.save()
        return refusal is None

    def _mark_unreadable(self, segment: Segment, unreadable: Ranges) -> None:
        with self._changed:
            self._inventory.mark_unreadable(segment, unreadable)

    def _remove(self, removal: Removal) -> None:
        self._files.remove(removal)
        self._changed.notify_all()

    def _warn(self, about: str, text: str, *values: object) -> None:
        """Log a warning, but not more often than every few seconds for each subject."""
        self._failures.add(about, text % values)
