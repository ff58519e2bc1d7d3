"""Did every kept pair enter exactly once? Pure: it compares journals with a learner's list, its cursor and the harms.

The check follows Jepsen's set-full: the rigs' journals name the kept pairs, the committed list those that entered. A kept pair is
in the list once with its own content, or inside a range that the learner counts as lost and that a harm explains. Two kinds of
pairs need not enter: those whose rig was killed before it knew whether it kept them, and those that the spool refused; both may
enter, once.

`unseen` pairs cannot be known to the learner: damage destroyed pairs at the end of an epoch together with the only record of
them, before the learner got their numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from stream.ranges import Ranges
from stream.source import Cursor

Name = tuple[str, int]
"""Epoch and number of a pair, for one device."""


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
    """A time, until `until_ns` of the machine's monotonic clock, in which a device's spool was damaged or its disk full."""

    device: str
    until_ns: int
    destroys: bool
    """Whether the harm can destroy pairs together with the record that they existed."""


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
    """Difference between the learner's count of lost pairs and its lost ranges."""
    unaccounted: int = 0
    """Counted as lost, without a harm that explains it."""
    unseen: int = 0
    lost_ranges: int = 0
    lost_pairs: int = 0
    """Pairs inside the lost ranges."""

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(*(getattr(self, name.name) + getattr(other, name.name) for name in fields(PairCounts)))

    @property
    def holds(self) -> bool:
        """Whether no pair was lost without being counted, and none entered twice."""
        return not any(getattr(self, name) for name in FAILURES)


FAILURES = ("lost", "twice", "changed", "strangers", "both", "phantoms", "miscounted", "unaccounted")


def check(
    journals: Mapping[str, Journal], entered: Iterable[Entered], cursor: Cursor, harms: Sequence[Harm], *, evicts: bool
) -> PairCounts:
    """Check one learner against the rigs' journals, by device; return the counts of its pairs.

    entered, cursor: of its newest commit. evicts: the spools were too small for the cuts, so that loss needs no other harm.
    """
    by_device: dict[str, list[Entered]] = {}
    for pair in entered:
        by_device.setdefault(pair.device, []).append(pair)
    counts = PairCounts(strangers=sum(len(pairs) for device, pairs in by_device.items() if device not in journals))
    for device, journal in journals.items():
        kept = cursor.get("devices", {}).get(device, {"epochs": {}, "counts": {"lost": 0}})
        own_harms = [harm for harm in harms if harm.device == device]
        counts += _check_device(journal, by_device.get(device, []), kept, own_harms, evicts=evicts)
    return counts


def owed(journal: Journal, cursor: Cursor, device: str, harms: Sequence[Harm]) -> Iterator[Name]:
    """Yield the kept pairs that a committed cursor does not know, without those that the learner cannot know (`unseen`)."""
    epochs = cursor.get("devices", {}).get(device, {"epochs": {}})["epochs"]
    done = {epoch: Ranges(book["done"]) for epoch, book in epochs.items()}
    own_harms = [harm for harm in harms if harm.device == device]
    for name in list(journal.kept):  # it grows at the same time
        known = done.get(name[0], Ranges())
        if name[1] not in known and not _is_unseen(name, journal.attempts[name], known, own_harms):
            yield name


def _check_device(
    journal: Journal, entered: Sequence[Entered], kept: Mapping[str, Any], harms: Sequence[Harm], *, evicts: bool
) -> PairCounts:
    attempts = journal.attempts
    times = Counter((pair.epoch, pair.seq) for pair in entered)
    lost = {epoch: Ranges(book["lost"]) for epoch, book in kept["epochs"].items()}
    done = {epoch: Ranges(book["done"]) for epoch, book in kept["epochs"].items()}
    lost_pairs = sum(ranges.count for ranges in lost.values())
    explained = [_explains(harms, attempt) for name, attempt in attempts.items() if _is_in(name, lost)]
    missing = [name for name in journal.kept if name not in times and not _is_in(name, lost)]
    unseen = sum(_is_unseen(name, attempts[name], done.get(name[0], Ranges()), harms) for name in missing)
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
    return name[0] in ranges and name[1] in ranges[name[0]]


def _is_unseen(name: Name, attempt: Attempt, known: Ranges, harms: Sequence[Harm]) -> bool:
    """Return whether the learner did not know the number of a pair yet when the spool was damaged."""
    return name[1] >= known.end and any(harm.destroys and attempt.at_ns <= harm.until_ns for harm in harms)


def _explains(harms: Sequence[Harm], attempt: Attempt) -> bool:
    return any(attempt.at_ns <= harm.until_ns for harm in harms)
