"""A rig: the real rules of its spool over a disk of dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from functools import partial
from math import inf
from random import Random

from benchmarks.simulation.disk import Disk
from benchmarks.simulation.truth import DEVICE, Name, Truth
from device.spool.consumers.consumers import Consumers
from device.spool.consumers.saving import Saving
from device.spool.inventory import EarlierEpoch
from device.spool.reply import Reply, RowReader
from device.spool.rules import SpoolLimits, SpoolRules
from device.spool.segment import Removal, Segment, Size, State
from stream.codec import to_parts
from stream.live.backfill_messages import PairParts, Reading, Span
from stream.pair import EncodedPair

PAIR_BYTES = 100
LIMITS = SpoolLimits(max_bytes=8000, free_floor_bytes=0, segment_bytes=400)
"""Segments of four pairs, and about ten of them."""
FORGET_AFTER_S = 7 * 86400.0


class SimulatedRig:
    """A `stream.live.backfill_messages.Shelf`, and what the process of a rig does with it. now_s: seconds since it was booted.

    grace_s: as of `device.spool.spool.Spool`. trusted: names of the keys that are let in; None: there are none.
    """

    device = DEVICE

    def __init__(self, limits: SpoolLimits = LIMITS, *, grace_s: float, trusted: set[str] | None) -> None:
        self.limits, self.grace_s, self.trusted = limits, grace_s, trusted
        self.disk = Disk()
        self.now_s = 0.0
        self.full = False
        self.truth = Truth()
        self.impersonated: set[str] = set()
        """Consumers in whose name somebody else could acknowledge."""
        self.on_freed: Callable[[list[Name], Collection[str]], None] = lambda names, consumers: None
        """Called with pairs that are deleted because they count as acknowledged, and with the consumers that the rig knows."""
        self.complete_s = 0.0
        """Until then the list of consumers may lack some, and nothing may be deleted."""
        self.boot(self.disk)

    @property
    def epoch(self) -> str:
        """The open epoch."""
        return self.inventory.epoch

    def boot(self, disk: Disk) -> None:
        """Start a process on what lies on a disk; the one before it has died at any moment."""
        epoch = f"{len(self.truth.made) + 1:032x}"
        self.truth.made[epoch] = 0
        self.disk, self.inventory = disk, disk.take_inventory(epoch)
        consumers = Consumers(
            disk.saved, now_s=self.now_s, forget_after_s=FORGET_AFTER_S, grace_s=self.grace_s, trusted=self.trusted
        )
        self.came = dict(disk.came)
        """How many pairs had been kept when each consumer came into the list; 0 if the list may have lacked it."""
        self.complete_s = self.now_s + self.grace_s * (not disk.saved.complete)
        self.rules, self.saving = SpoolRules(self.limits, self.inventory, consumers), Saving(consumers, self.inventory)
        self._remove(self.rules.free(self.now_s))

    def make(self) -> EncodedPair:
        """Make the next pair and keep it, if the disk takes it; return it."""
        pair = self.truth.make(self.epoch)
        epoch, seq = pair.header.epoch, pair.header.seq
        spooled = self.rules.may_write(self.now_s) and self._write(seq)
        self.rules.offered(seq, spooled=spooled)
        if spooled or epoch in self.disk.ends:  # the file is as old as the first segment, and never grows
            self.disk.ends[epoch] = EarlierEpoch(self.inventory.run, self.inventory.end)
        if spooled:
            self.truth.kept[epoch, seq] = pair
        return pair

    def recorded(self) -> dict[str, int]:
        """Return how far the rig knows each epoch, whether it holds its pairs or not."""
        return {span.epoch: span.head for span in self.spans(freed=True)}

    def note_damage(self) -> None:
        """Note, after damage and a new start, which pairs are away, and which the rig cannot know any more."""
        self.truth.note_away(self.disk)
        self.truth.unrecorded.update(self.truth.forgotten(self.recorded()))

    def cut_power(self, random: Random) -> None:
        """Lose the newest pairs, and perhaps the number of them; then start again."""
        self.disk.cut(random)
        self.boot(self.disk)
        self.note_damage()

    def spans(self, *, freed: bool = False) -> list[Span]:
        """See `Shelf`."""
        return self.inventory.spans(freed=freed)

    def read(self, epoch: str, first: int, last: int, credit_bytes: int) -> Reading:
        """See `Shelf`."""
        plan, known_end = self.inventory.plan_read(epoch, first, last)
        reply = Reply(DEVICE, epoch, first, credit_bytes)
        return reply.fill(plan, known_end, rows_of=self._rows_of, on_rot=self.inventory.mark_unreadable)

    def register(self, consumer: str, peer: str | None = None) -> bool:
        """See `Shelf`."""
        return self._acknowledge(consumer, {}, peer)

    def knows(self, consumer: str) -> bool:
        """Return whether pairs are kept for a consumer, no matter which peer used its name."""
        return consumer in self.rules.consumers.heard_since(-inf)

    def kept_from(self, consumer: str) -> dict[str, int] | None:
        """See `Shelf`."""
        return self.rules.consumers.kept_from(consumer)

    def acknowledge(self, consumer: str, upto: Mapping[str, int], peer: str | None = None) -> None:
        """See `Shelf`."""
        self._acknowledge(consumer, upto, peer)

    def leave(self, consumer: str, peer: str | None = None) -> None:
        """See `Shelf`."""
        self.rules.consumers.leave(consumer, peer)

    def stop(self) -> None:
        """End the process properly."""
        self._remove(self.rules.close_open() + self.rules.free(self.now_s))
        self.save(at_end=True)

    def save(self, *, at_end: bool = False) -> None:
        """Save the list of consumers, if it is time and the disk takes it."""
        saved = self.saving.begin(self.now_s, at_end=at_end)
        if saved is not None and self.full:
            self.saving.failed(self.now_s)
        elif saved is not None:
            self.disk.saved, self.disk.came = saved, dict(self.came)
            self.saving.done(self.now_s)

    def _acknowledge(self, consumer: str, upto: Mapping[str, int], peer: str | None) -> bool:
        was_known = self.knows(consumer)
        refusal, removal = self.rules.acknowledge(consumer, upto, self.now_s, peer)
        if not was_known:
            self.came[consumer] = len(self.truth.kept) if self.now_s >= self.complete_s else 0
        self._remove(removal)
        self.save()
        return refusal is None

    def _rows_of(self, segment: Segment) -> nullcontext[RowReader]:
        return nullcontext(partial(self._row, segment))

    def _row(self, segment: Segment, seq: int) -> PairParts | None:
        pair = self.truth.readable((segment.epoch, seq))
        if pair is None:
            return None
        _, header, left, right = to_parts(pair)
        return header, left, right

    def _write(self, seq: int) -> bool:
        """Write a pair as `device.spool.writer.Writer` does."""
        for _ in range(2):
            enough, removal = self.rules.make_room(2 * PAIR_BYTES, 1 << 40, self.now_s)
            self._remove(removal, evicts=True)
            if not enough:
                break
            if self.full:
                self._remove(self.rules.write_failed(disk_full=True), evicts=True)
                continue
            if not self.rules.fits_open(seq, PAIR_BYTES):
                self._remove(self.rules.close_open())
                self.rules.begin(Segment(self.inventory.run, self.epoch, first=seq, end=seq, state=State.OPEN))
            segment = self.rules.open
            assert segment is not None
            size_bytes = (segment.end - segment.first + 1) * PAIR_BYTES
            self.rules.appended(segment, Size(size_bytes, size_bytes))
            return True
        self.rules.refused(self.now_s)
        return False

    def _remove(self, removal: Removal, *, evicts: bool = False) -> None:
        """Carry out a decision of the rules: the inventory's list of segments is that of the disk.

        evicts: whether it may be for want of room, so that nobody had to acknowledge anything.
        """
        known = self.rules.consumers
        for one in removal.segments:
            if known.acknowledged(one.epoch) >= one.end and not (evicts and self.now_s < self.complete_s):
                names = [(one.epoch, seq) for seq in range(one.first, one.end)]
                self.on_freed([name for name in names if name in self.truth.kept], known.heard_since(-inf))
        self.disk.carry_out(removal, self.inventory)
