"""The consumers for which pairs are kept: their names, their acknowledgements, and when each of them sent its last message.

Pure rules: the time is passed in, and `file.py` reads and writes the file.

- Silence is measured by the time that the rig was running, never by the calendar: a rig may have no battery for its clock. What
  passed before the last save is in the file; a rig that is killed forgets at most the minutes since.
- A list that begins empty, because its file is new or was damaged, does not know the consumers that have not come back yet.
  Therefore nothing is deleted because of its acknowledgements until those consumers had time to report.
- Where there are keys, the first one that uses a consumer's name owns the name, and every other key is refused. Without keys
  nobody owns a name.
- The list has an end. Names that have never acknowledged a pair give their places first, so that invented ones take none from a
  learner.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from device.spool.consumers.saved import MAX_CONSUMERS, SavedConsumer, SavedConsumers
from stream.pair import NAME

MAX_CONSUMERS_PER_KEY = 32
"""One key can take half of the places."""
UNPROVEN_FORGET_AFTER_S = 86400.0
"""Longest silence of a consumer that has never acknowledged a pair."""
UNPROVEN_YIELD_AFTER_S = 60.0
YIELD_AFTER_S = 86400.0
"""If the list is full, a consumer that was silent for longer gives its place to a new one."""

log = logging.getLogger(__name__)


class Refusal(StrEnum):
    """Why no pairs are kept for a consumer; also a label of the rig's metric."""

    NAME = "name"
    """Its name is not allowed."""
    OWNER = "owner"
    """Its name belongs to another key."""
    PLACES = "places"
    """There are too many consumers, or too many with the same key."""

    def explain(self, owner: str | None, peer: str | None) -> str:
        """Return this reason in words. owner: of the name. peer: the key that used it."""
        match self:
            case Refusal.NAME:
                return "a name is 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit"
            case Refusal.OWNER:
                return f"the name belongs to the key of {owner}, and the key of {peer} used it; give each its own"
            case Refusal.PLACES:
                return "there are too many; one that is silent for a day gives its place"


@dataclass(slots=True)
class _Consumer:
    heard_s: float
    """Time of its last message, seconds of the monotonic clock."""
    owner: str | None = None
    """The name of the key that owns it; None where there are no keys."""
    proven: bool = False
    """Whether it has ever acknowledged a pair."""
    upto: dict[str, int] = field(default_factory=dict)
    """For each epoch, the number below which the consumer has made every pair durable."""
    kept_from: dict[str, int] | None = None
    """See `Consumers.kept_from`."""
    came_s: float | None = None
    """When it came, seconds of the monotonic clock; None: not known."""


class Consumers:
    """The consumers for which pairs are kept, as rules without a file or a clock.

    saved: the list that the previous process saved. now_s: monotonic seconds.
    forget_after_s: a consumer that is silent for longer is forgotten.
    grace_s: seconds from now on after which an incomplete list counts as complete.
    trusted: the names of the keys that are let in; None where there are no keys. A consumer whose key is not among them belongs
    to nobody, and counts as one that has never acknowledged.
    """

    def __init__(
        self,
        saved: SavedConsumers,
        *,
        now_s: float,
        forget_after_s: float,
        grace_s: float,
        trusted: Collection[str] | None = None,
    ) -> None:
        self._forget_after_s = forget_after_s
        self._complete_s = float("-inf") if saved.complete else now_s + grace_s
        self.changes = 0
        """Number of changes that have to be saved at once."""
        self._known = {name: _restored(consumer, now_s, trusted) for name, consumer in saved.consumers.items()}
        self._gone: dict[str, int] = {}
        """For each epoch, the number below which a consumer that is not known any more had made every pair durable."""

    def __len__(self) -> int:
        return len(self._known)

    def register(
        self,
        name: str,
        now_s: float,
        peer: str | None = None,
        *,
        acknowledges: bool = False,
        tails: Callable[[], dict[str, int]] = dict,
    ) -> Refusal | None:
        """Note that a consumer is there; return why no pairs are kept for it, or None if they are.

        peer: the name of the key that uses it; None where there are no keys. acknowledges: whether it has acknowledged pairs
        now, so that it may take the place of one that never has. tails: returns the first pair of each epoch that there is now.
        """
        if not NAME.fullmatch(name):
            return Refusal.NAME
        consumer = self._known.get(name)
        if consumer is None:
            if not self._make_place(name, now_s, peer, acknowledges):
                return Refusal.PLACES
            log.info("pairs are kept for consumer %s", name)
            # A list that lacks some may lack this one, for which pairs were then kept from their first one on.
            kept_from = tails() if now_s >= self._complete_s else {}
            consumer = self._known[name] = _Consumer(now_s, peer, kept_from=kept_from, came_s=now_s)
            self.changes += 1
        if peer is not None and consumer.owner is None:
            consumer.owner = peer
            self.changes += 1
        if peer is not None and consumer.owner != peer:
            return Refusal.OWNER
        consumer.heard_s = now_s
        return None

    def kept_from(self, name: str) -> dict[str, int] | None:
        """Return, for each epoch that had begun when a consumer became known, the first pair that was kept for it then.

        Of all later epochs every pair was kept for it. None: this is not known.
        """
        consumer = self._known.get(name)
        return None if consumer is None else consumer.kept_from

    def owner(self, name: str) -> str | None:
        """Return the name of the key that owns a consumer's name, if there is one."""
        consumer = self._known.get(name)
        return None if consumer is None else consumer.owner

    def acknowledge(self, name: str, upto: Mapping[str, int]) -> bool:
        """Note that a registered consumer has made everything below `upto[epoch]` durable; return whether this changes anything.

        A number that is lower than an earlier one changes nothing.
        """
        consumer = self._known[name]
        news = {epoch: seq for epoch, seq in upto.items() if seq > consumer.upto.get(epoch, 0)}
        consumer.upto.update(news)
        consumer.proven |= bool(news)
        self.changes += bool(news)
        return bool(news)

    def leave(self, name: str, peer: str | None = None) -> None:
        """Forget a consumer that does not come back, unless its name belongs to another key."""
        consumer = self._known.get(name)
        if consumer is not None and consumer.owner in (None, peer):
            log.info("consumer %s has left: no pairs are kept for it", name)
            self._remove(name)

    def acknowledged(self, epoch: str) -> int:
        """Return the number of an epoch below which every consumer has every pair.

        If there is no consumer: below which one that has left, or was forgotten, had every pair.
        """
        if not self._known:
            return self._gone.get(epoch, 0)
        return min(consumer.upto.get(epoch, 0) for consumer in self._known.values())

    def deletable(self, epoch: str, now_s: float) -> int:
        """Return the number of an epoch below which pairs may be deleted: no known or returning consumer needs them.

        Without a consumer this is 0: the next one may want them all.
        """
        return self.acknowledged(epoch) if self._known and now_s >= self._complete_s else 0

    def heard_since(self, since_s: float) -> dict[str, Mapping[str, int]]:
        """Return the acknowledgements, by name, of the consumers that have sent a message since then."""
        return {name: consumer.upto for name, consumer in self._known.items() if consumer.heard_s >= since_s}

    def forget(self, epochs: Collection[str], now_s: float, named: Collection[str] | None = None) -> None:
        """Forget the consumers that were silent for too long, and all epochs except the given ones.

        named: those epochs and the freed ones that are still named to consumers.
        """
        for name, consumer in list(self._known.items()):
            patience_s = self._forget_after_s
            if not consumer.proven:
                patience_s = min(patience_s, UNPROVEN_FORGET_AFTER_S)
            if now_s - consumer.heard_s > patience_s:
                log.warning("consumer %s is forgotten: silent for %.1f days of this rig", name, patience_s / 86400)
                self._remove(name)
            consumer.upto = {epoch: seq for epoch, seq in consumer.upto.items() if epoch in epochs}
            if consumer.kept_from is not None and named is not None:
                consumer.kept_from = {epoch: seq for epoch, seq in consumer.kept_from.items() if epoch in named}
        self._gone = {epoch: seq for epoch, seq in self._gone.items() if epoch in epochs}

    def to_save(self, now_s: float) -> SavedConsumers:
        """Return the list for the file."""
        consumers = {
            name: SavedConsumer(
                upto=consumer.upto.copy(),
                silent_s=max(0.0, now_s - consumer.heard_s),
                proven=consumer.proven,
                owner=consumer.owner,
                kept_from=None if consumer.kept_from is None else consumer.kept_from.copy(),
                known_s=None if consumer.came_s is None else max(0.0, now_s - consumer.came_s),
            )
            for name, consumer in self._known.items()
        }
        return SavedConsumers(complete=now_s >= self._complete_s, consumers=consumers)

    def _make_place(self, name: str, now_s: float, peer: str | None, acknowledges: bool) -> bool:
        """Return whether there is a place for one consumer more, if need be that of a silent one."""
        rivals = self._known
        if peer is not None:
            own = {other: consumer for other, consumer in self._known.items() if consumer.owner == peer}
            rivals = own if len(own) >= MAX_CONSUMERS_PER_KEY else rivals
        if rivals is self._known and len(self._known) < MAX_CONSUMERS:
            return True
        yielding = {other: one for other, one in rivals.items() if _yields(one, now_s, acknowledges)}
        if not yielding:
            return False
        last = min(yielding, key=lambda other: (yielding[other].proven, yielding[other].heard_s))
        say = log.warning if yielding[last].proven else log.info
        hours = (now_s - yielding[last].heard_s) / 3600
        say("consumer %s is forgotten for %s: the list is full, and it was silent for %.1f hours", last, name, hours)
        self._remove(last)
        return True

    def _remove(self, name: str) -> None:
        for epoch, seq in self._known.pop(name).upto.items():
            self._gone[epoch] = max(seq, self._gone.get(epoch, 0))
        self.changes += 1


def _restored(saved: SavedConsumer, now_s: float, trusted: Collection[str] | None) -> _Consumer:
    known = trusted is None or saved.owner is None or saved.owner in trusted
    owner = saved.owner if known else None
    kept_from = None if saved.kept_from is None else dict(saved.kept_from)
    came_s = None if saved.known_s is None else now_s - saved.known_s
    return _Consumer(now_s - saved.silent_s, owner, saved.proven and known, dict(saved.upto), kept_from, came_s)


def _yields(consumer: _Consumer, now_s: float, acknowledges: bool) -> bool:
    """Return whether a consumer gives its place to a new one if there is no other."""
    silent_s = now_s - consumer.heard_s
    if consumer.proven:
        return silent_s > YIELD_AFTER_S
    return acknowledges or silent_s > UNPROVEN_YIELD_AFTER_S
