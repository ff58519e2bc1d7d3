"""Did every kept pair enter exactly once? Pure: it compares journals with a consumer's list, its cursor and the harms.

The check follows Jepsen's set-full: the rigs' journals name the kept pairs, the committed list those that entered. A kept pair is
in the list once with its own content, or inside a range that the consumer counts as lost and that a harm explains. Two kinds of
pairs need not enter: those whose rig was killed before it knew whether it kept them, and those that the spool refused; both may
enter, once.

`unseen` pairs cannot be known to the consumer: damage destroyed pairs at the end of an epoch together with the only record of
them, before the consumer got their numbers. Nothing here is code of the product, so that no mistake is made twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import itemgetter
from typing import Any, NamedTuple

Name = tuple[str, int]
"""Epoch and number of a pair, for one device."""
Ranges = Sequence[Sequence[int]]
"""Numbers as ranges [a, b), which rise and do not touch."""
Cursor = Mapping[str, Any]
"""What a consumer has committed, as JSON values: {"devices": {DEVICE: {"epochs": {EPOCH: {"done": Ranges, "lost": Ranges}},
"counts": {"lost": count}}}}. Done: received or lost."""


class Attempt(NamedTuple):
    """A pair that a rig was about to keep."""

    crc: int
    at_ns: int


@dataclass(slots=True)
class Journal:
    """The reports of one rig: the pairs that it was about to keep, those that it kept, and those that were refused."""

    attempts: dict[Name, Attempt] = field(default_factory=dict)
    kept: set[Name] = field(default_factory=set)
    refused: set[Name] = field(default_factory=set)

    def add(self, line: str) -> None:
        """Add a reported line; other lines are ignored."""
        match line.split():
            case ["attempt", epoch, seq, crc, at_ns]:
                self.attempts[epoch, int(seq)] = Attempt(int(crc), int(at_ns))
            case ["kept", epoch, seq]:
                self.kept.add((epoch, int(seq)))
            case ["refused", epoch, seq]:
                self.refused.add((epoch, int(seq)))

    def lines(self) -> Iterator[str]:
        """Yield each attempt with its outcome, as text."""
        for name, attempt in self.attempts.items():
            outcome = "kept" if name in self.kept else "refused" if name in self.refused else "indeterminate"
            yield " ".join(map(str, (*name, *attempt, outcome)))


class Entered(NamedTuple):
    """A pair in the list of a learner. crc: checksum of the received images. at_ns: arrival, by the machine's monotonic clock."""

    device: str
    epoch: str
    seq: int
    crc: int
    at_ns: int


class Harm(NamedTuple):
    """A time, until `until_ns` of the machine's monotonic clock, in which something was damaged that can cost pairs."""

    device: str
    """Whose pairs; empty for all rigs."""
    until_ns: float
    destroys: bool
    """Whether the harm can destroy pairs together with the record that they existed."""
    epoch: str = ""
    """Whose record it destroys; empty for all epochs."""


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Numbers of pairs, except for `lost_ranges`. The counts that FAILURES names have to be 0."""

    kept: int = 0
    entered: int = 0
    indeterminate: int = 0
    """Attempts whose outcome the rig never knew."""
    refused: int = 0
    lost: int = 0
    """Kept, but neither entered nor counted as lost."""
    twice: int = 0
    changed: int = 0
    """Entered with other content than the rig made."""
    strangers: int = 0
    """Entered, although no rig made them."""
    both: int = 0
    """Entered, and also counted as lost."""
    phantoms: int = 0
    """Counted as lost, although no rig made them."""
    miscounted: int = 0
    """Difference between the consumer's count of lost pairs and its lost ranges."""
    unaccounted: int = 0
    """Counted as lost, without a harm that explains it."""
    unseen: int = 0
    lost_ranges: int = 0
    lost_pairs: int = 0
    """Pairs inside the lost ranges."""

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(*(getattr(self, name.name) + getattr(other, name.name) for name in fields(PairCounts)))

    @property
    def failed(self) -> list[str]:
        """The names of the counts that have to be 0 and are not."""
        return [name for name in FAILURES if getattr(self, name)]

    @property
    def holds(self) -> bool:
        """Whether no pair was lost without being counted, and none entered twice."""
        return not self.failed


FAILURES = ("lost", "twice", "changed", "strangers", "both", "phantoms", "miscounted", "unaccounted")


def check(
    journals: Mapping[str, Journal], entered: Iterable[Entered], cursor: Cursor, harms: Sequence[Harm], *, evicts: bool
) -> PairCounts:
    """Check one consumer against the rigs' journals, by device; return the counts of its pairs.

    entered, cursor: of its newest commit. harms: those that concern this consumer. evicts: the spools were too small for the
    cuts, so that loss needs no other harm.
    """
    by_device: dict[str, list[Entered]] = {}
    for pair in entered:
        by_device.setdefault(pair.device, []).append(pair)
    counts = PairCounts(strangers=sum(len(pairs) for device, pairs in by_device.items() if device not in journals))
    for device, journal in journals.items():
        kept = cursor.get("devices", {}).get(device, {"epochs": {}, "counts": {"lost": 0}})
        own_harms = [harm for harm in harms if harm.device in ("", device)]
        counts += _check_device(journal, by_device.get(device, []), kept, own_harms, evicts=evicts)
    return counts


def owed(journal: Journal, cursor: Cursor, device: str, harms: Sequence[Harm]) -> Iterator[Name]:
    """Yield the kept pairs that a committed cursor does not know, without those that the consumer cannot know (`unseen`)."""
    epochs = cursor.get("devices", {}).get(device, {"epochs": {}})["epochs"]
    done = {epoch: book["done"] for epoch, book in epochs.items()}
    own_harms = [harm for harm in harms if harm.device in ("", device)]
    for name in list(journal.kept):  # it grows at the same time
        if not _is_in(name, done) and not _is_unseen(name, journal.attempts[name], done, own_harms):
            yield name


def _check_device(
    journal: Journal, entered: Sequence[Entered], kept: Mapping[str, Any], harms: Sequence[Harm], *, evicts: bool
) -> PairCounts:
    attempts = journal.attempts
    times = Counter((pair.epoch, pair.seq) for pair in entered)
    lost: dict[str, Ranges] = {epoch: book["lost"] for epoch, book in kept["epochs"].items()}
    done: dict[str, Ranges] = {epoch: book["done"] for epoch, book in kept["epochs"].items()}
    lost_pairs = sum(last - first for ranges in lost.values() for first, last in ranges)
    explained = [_explains(harms, attempt) for name, attempt in attempts.items() if _is_in(name, lost)]
    missing = [name for name in journal.kept if name not in times and not _is_in(name, lost)]
    unseen = sum(_is_unseen(name, attempts[name], done, harms) for name in missing)
    return PairCounts(
        kept=len(journal.kept),
        entered=len(times),
        indeterminate=len(attempts.keys() - journal.kept - journal.refused),
        refused=len(journal.refused),
        lost=len(missing) - unseen,
        twice=times.total() - len(times),
        changed=sum((name := pair[1:3]) in attempts and pair.crc != attempts[name].crc for pair in entered),
        strangers=len(times.keys() - attempts.keys()),
        both=sum(_is_in(name, lost) for name in times),
        phantoms=lost_pairs - len(explained),
        miscounted=abs(kept["counts"]["lost"] - lost_pairs),
        unaccounted=0 if evicts else explained.count(False),
        unseen=unseen,
        lost_ranges=sum(len(ranges) for ranges in lost.values()),
        lost_pairs=lost_pairs,
    )


def _is_in(name: Name, ranges: Mapping[str, Ranges]) -> bool:
    epoch, seq = name
    at = bisect_right(ranges.get(epoch, ()), seq, key=itemgetter(0)) - 1
    return at >= 0 and seq < ranges[epoch][at][1]


def _is_unseen(name: Name, attempt: Attempt, done: Mapping[str, Ranges], harms: Sequence[Harm]) -> bool:
    """Return whether the consumer did not know the number of a pair yet when the spool was damaged."""
    epoch, seq = name
    is_new = seq >= max((last for _, last in done.get(epoch, ())), default=0)
    destroying = [harm for harm in harms if harm.destroys and harm.epoch in ("", epoch)]
    return is_new and any(attempt.at_ns <= harm.until_ns for harm in destroying)


def _explains(harms: Sequence[Harm], attempt: Attempt) -> bool:
    return any(attempt.at_ns <= harm.until_ns for harm in harms)
