"""The consumers for which pairs are kept: their names, their acknowledgements, and when each of them sent its last message.

Pure rules: the time is passed in, and `consumers_file` reads and writes the file. A list that begins empty, because its file is
new or was damaged, does not know the consumers that have not come back yet. Therefore nothing is deleted because of its
acknowledgements until those consumers had time to report. A rig may have no battery for its clock, so silence is measured by the
monotonic clock; the time of day only says how long the rig was off.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from stream.live.backfill_messages import MAX_EPOCHS
from stream.pair import NAME, Count, Epoch

MAX_CONSUMERS = 64
SAVE_INTERVAL_S = 3600.0
"""The times of silence in the file may be this much out of date; acknowledgements are saved at once."""

log = logging.getLogger(__name__)


class SavedConsumer(msgspec.Struct, forbid_unknown_fields=True):
    """One consumer as it is saved in the file."""

    heard_s: float
    """Time of its last message, seconds since 1970."""
    upto: Annotated[dict[Epoch, Count], msgspec.Meta(max_length=MAX_EPOCHS)]


class SavedConsumers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The list as it is saved in the file."""

    crc: int = 0
    """Checksum of the two other fields; 0 outside of a file."""
    complete: bool = False
    """Whether every consumer had time to report, so that the list lacks none."""
    consumers: Annotated[dict[str, SavedConsumer], msgspec.Meta(max_length=MAX_CONSUMERS)] = {}


@dataclass(slots=True)
class _Consumer:
    heard_s: float
    """Time of its last message, seconds of the monotonic clock."""
    upto: dict[str, int] = field(default_factory=dict)
    """For each epoch, the number below which the consumer has made every pair durable."""


class Consumers:
    """The consumers for which pairs are kept, as rules without a file or a clock.

    saved: the list that the previous process saved. now_s: monotonic seconds; wall_s: seconds since 1970, of the same moment.
    forget_after_s: a consumer that is silent for longer is forgotten.
    grace_s: seconds from now on after which an incomplete list counts as complete.
    """

    def __init__(
        self, saved: SavedConsumers, *, now_s: float, wall_s: float, forget_after_s: float, grace_s: float
    ) -> None:
        self._forget_after_s = forget_after_s
        self._complete_s = float("-inf") if saved.complete else now_s + grace_s
        self._saved_s = now_s
        self._changed = False
        self._known = {
            name: _Consumer(heard_s=now_s - max(0.0, wall_s - consumer.heard_s), upto=consumer.upto)
            for name, consumer in saved.consumers.items()
        }

    def __len__(self) -> int:
        return len(self._known)

    def register(self, name: str, now_s: float) -> bool:
        """Note that a consumer is there; return False if its name is not allowed or there are too many consumers already."""
        if name not in self._known:
            if len(self._known) >= MAX_CONSUMERS or not NAME.fullmatch(name):
                return False
            log.info("pairs are kept for consumer %s", name)
            self._known[name] = _Consumer(now_s)
            self._changed = True
        self._known[name].heard_s = now_s
        return True

    def acknowledge(self, name: str, upto: Mapping[str, int]) -> bool:
        """Note that a registered consumer has made everything below `upto[epoch]` durable; return whether this changes anything.

        A number that is lower than an earlier one changes nothing.
        """
        known = self._known[name].upto
        news = {epoch: seq for epoch, seq in upto.items() if seq > known.get(epoch, 0)}
        known.update(news)
        self._changed |= bool(news)
        return bool(news)

    def acknowledged(self, epoch: str) -> int:
        """Return the number of an epoch below which every consumer has every pair; 0 if there is no consumer."""
        return min((consumer.upto.get(epoch, 0) for consumer in self._known.values()), default=0)

    def deletable(self, epoch: str, now_s: float) -> int:
        """Return the number of an epoch below which pairs may be deleted: no known or returning consumer needs them."""
        return self.acknowledged(epoch) if now_s >= self._complete_s else 0

    def heard_since(self, since_s: float) -> dict[str, Mapping[str, int]]:
        """Return the acknowledgements, by name, of the consumers that have sent a message since then."""
        return {name: consumer.upto for name, consumer in self._known.items() if consumer.heard_s >= since_s}

    def forget(self, epochs: Collection[str], now_s: float) -> None:
        """Forget the consumers that were silent for too long, and all epochs except the given ones."""
        for name, consumer in list(self._known.items()):
            if consumer.heard_s < now_s - self._forget_after_s:
                log.warning("consumer %s is forgotten: silent for %.1f days", name, self._forget_after_s / 86400)
                del self._known[name]
                self._changed = True
            consumer.upto = {epoch: seq for epoch, seq in consumer.upto.items() if epoch in epochs}

    def to_save(self, now_s: float, wall_s: float) -> SavedConsumers | None:
        """Return the list for the file; None if the file is up to date."""
        if not self._changed and now_s - self._saved_s < SAVE_INTERVAL_S:
            return None
        self._changed, self._saved_s = False, now_s
        consumers = {
            name: SavedConsumer(heard_s=wall_s - (now_s - consumer.heard_s), upto=consumer.upto.copy())
            for name, consumer in self._known.items()
        }
        return SavedConsumers(complete=now_s >= self._complete_s, consumers=consumers)
