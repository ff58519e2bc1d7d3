"""The rules of the spool alone, without files, threads or clocks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from device.spool.consumers.consumers import Consumers
from device.spool.consumers.saved import SavedConsumers
from device.spool.inventory import EarlierEpoch, Inventory
from device.spool.rules import RETRY_S, SpoolLimits, SpoolRules
from device.spool.segment import Removal, Segment, Size, State
from stream.live.backfill_messages import Span
from stream.ranges import Ranges

PAIR_BYTES = 100
PAIRS = 10
"""In one segment."""
SEGMENTS = 8
LIMITS = SpoolLimits(max_bytes=2 * SEGMENTS * PAIRS * PAIR_BYTES, free_floor_bytes=0, segment_bytes=PAIRS * PAIR_BYTES)
PLENTY_BYTES = 1 << 40
EPOCH, EARLIER, UNKNOWN = "a" * 32, "b" * 32, "c" * 32


@dataclass
class Simulated:
    """A spool without files: the rules get sizes and times as numbers."""

    rules: SpoolRules
    free_bytes: int = PLENTY_BYTES
    now_s: float = 1000.0
    deleted: list[Segment] = field(default_factory=list)

    def remove(self, removal: Removal) -> None:
        self.deleted += removal.segments

    def append(self, count: int = 1) -> list[bool]:
        return [self._append(self.rules.inventory.end) for _ in range(count)]

    def _append(self, seq: int) -> bool:
        spooled = self.rules.may_write(self.now_s) and self._write(seq)
        self.rules.offered(seq, spooled=spooled)
        return spooled

    def _write(self, seq: int) -> bool:
        enough, removal = self.rules.make_room(PAIR_BYTES, self.free_bytes, self.now_s)
        self.remove(removal)
        if not enough:
            self.rules.refused(self.now_s)
            return False
        if not self.rules.fits_open(seq, PAIR_BYTES):
            self.remove(self.rules.close_open())
            self.rules.begin(Segment(1, self.rules.inventory.epoch, first=seq, end=seq, state=State.OPEN))
        segment = self.rules.open
        assert segment is not None
        size_bytes = (segment.end - segment.first + 1) * PAIR_BYTES
        self.rules.appended(segment, Size(size_bytes, size_bytes))
        return True

    def seal(self) -> None:
        while (segment := self.rules.next_to_seal()) is not None:
            self.rules.sealed(segment, State.SEALED, Size(segment.size.disk_bytes, 0))

    def acknowledge(self, name: str, upto: int, epoch: str = EPOCH) -> None:
        refusal, removal = self.rules.acknowledge(name, {epoch: upto}, self.now_s)
        assert refusal is None
        self.remove(removal)

    @property
    def inventory(self) -> Inventory:
        return self.rules.inventory


def simulated(
    *,
    limits: SpoolLimits = LIMITS,
    segments: list[Segment] | None = None,
    earlier: dict[str, EarlierEpoch] | None = None,
    grace_s: float = 0.0,
) -> Simulated:
    consumers = Consumers(SavedConsumers(), now_s=1000.0, forget_after_s=3600.0, grace_s=grace_s)
    return Simulated(SpoolRules(limits, Inventory(EPOCH, segments or [], earlier), consumers))


def earlier_segment(*, pairs: int = PAIRS) -> Segment:
    size = Size(pairs * PAIR_BYTES, 0)
    return Segment(1, EARLIER, first=0, end=pairs, state=State.SEALED, size=size)


def missing(inventory: Inventory, epoch: str, first: int, last: int) -> Ranges:
    """The numbers of a range that are lost for a consumer."""
    plan, known_end = inventory.plan_read(epoch, first, last)
    lost = Ranges([(first, known_end)])
    for segment, end in plan:
        lost.remove(segment.first, end)
    return lost


def test_without_a_consumer_nothing_is_freed_and_the_oldest_segment_is_evicted_when_there_is_no_room() -> None:
    spool = simulated()
    assert all(spool.append(20 * PAIRS))
    (span,) = spool.inventory.spans()
    assert (span.head, span.tail % PAIRS) == (20 * PAIRS, 0)
    assert span.tail > 0
    assert spool.inventory.lost == {"evicted": span.tail, "rot": 0}
    assert missing(spool.inventory, EPOCH, 0, 1000) == Ranges([(0, span.tail)])
    assert [segment.first for segment in spool.deleted] == list(range(0, span.tail, PAIRS))


def test_a_segment_is_deleted_when_the_slowest_consumer_has_acknowledged_it_and_the_open_one_stays() -> None:
    spool = simulated()
    spool.acknowledge("slow", 0)
    spool.append(35)
    spool.acknowledge("fast", 35)
    assert spool.deleted == []
    spool.acknowledge("slow", 20)
    assert spool.inventory.spans() == [Span(EPOCH, 20, 35, True)]
    assert spool.rules.awaited(0.0) == {"slow": 15}
    spool.acknowledge("slow", 35)
    assert spool.inventory.segments == [spool.rules.open]
    assert spool.rules.stats(0.0).backlog == 0


def test_while_other_consumers_may_still_come_back_nothing_is_deleted() -> None:
    spool = simulated(grace_s=60.0)
    spool.append(25)
    spool.acknowledge("one", 25)
    assert spool.deleted == []
    spool.now_s += 60.0
    spool.append()
    spool.acknowledge("one", 26)
    assert [segment.first for segment in spool.deleted] == [0, 10]


def test_a_disk_that_others_fill_costs_all_but_the_open_segment_and_is_then_left_alone_for_a_second() -> None:
    spool = simulated()
    spool.append(25)
    spool.free_bytes = -PLENTY_BYTES  # however much is deleted
    assert spool.append(3) == [False] * 3
    assert spool.inventory.spans() == [Span(EPOCH, 20, 28, True)]
    spool.free_bytes = PLENTY_BYTES
    assert spool.append() == [False]
    spool.now_s += RETRY_S
    assert spool.append() == [True]
    assert missing(spool.inventory, EPOCH, 20, 30) == Ranges([(25, 29)])
    assert spool.rules.unspooled == 4


def test_a_disk_that_stays_full_costs_one_segment_only() -> None:
    spool = simulated()
    spool.append(45)
    for _ in range(5):
        spool.remove(spool.rules.write_failed(disk_full=True))
    assert len(spool.deleted) == 1
    spool.append()
    spool.remove(spool.rules.write_failed(disk_full=True))
    assert len(spool.deleted) == 2


def test_an_evicted_epoch_is_still_named_when_every_consumer_has_acknowledged_it() -> None:
    spool = simulated(segments=[earlier_segment()])
    spool.acknowledge("one", 0)
    while EARLIER in {segment.epoch for segment in spool.inventory.segments}:
        spool.append()
    assert spool.inventory.spans()[0] == Span(EARLIER, PAIRS, PAIRS, False)
    assert missing(spool.inventory, EARLIER, 0, PAIRS) == Ranges([(0, PAIRS)])
    assert spool.rules.acknowledge("one", {EARLIER: PAIRS}, spool.now_s) == (None, Removal())
    assert [span.epoch for span in spool.inventory.spans()] == [EPOCH]
    assert spool.inventory.spans(freed=True)[0] == Span(EARLIER, PAIRS, PAIRS, False)


def test_of_too_many_emptied_epochs_the_oldest_are_forgotten_and_freed_ones_first() -> None:
    epochs = {f"{number:032x}": EarlierEpoch(number, 5, freed=number in (1, 3)) for number in range(5)}
    names = list(epochs)
    for limit, kept in ((4, (0, 2, 3, 4)), (3, (0, 2, 4)), (2, (2, 4))):
        limits = SpoolLimits(LIMITS.max_bytes, 0, LIMITS.segment_bytes, max_emptied_epochs=limit)
        spool = simulated(limits=limits, earlier=epochs)
        spool.append(20 * PAIRS)
        spans = spool.inventory.spans(freed=True)
        assert [span.epoch for span in spans] == [*(names[number] for number in kept), EPOCH]


def test_an_epoch_whose_end_file_is_damaged_can_still_be_acknowledged() -> None:
    spool = simulated(segments=[earlier_segment()], earlier={EARLIER: EarlierEpoch(1, 0)})
    spool.acknowledge("one", PAIRS, EARLIER)
    assert [segment.epoch for segment in spool.deleted] == [EARLIER]


def test_a_pair_of_an_unknown_epoch_is_lost_and_one_beyond_the_open_end_is_not_there_yet() -> None:
    spool = simulated()
    spool.append(3)
    assert missing(spool.inventory, UNKNOWN, 5, 1 << 40) == Ranges([(5, 1 << 40)])
    assert missing(spool.inventory, EPOCH, 0, 9) == Ranges()
    assert spool.inventory.plan_read(EPOCH, 0, 9)[1] == 3


def test_an_unreadable_pair_is_counted_once_and_not_again_when_its_segment_is_evicted() -> None:
    spool = simulated()
    spool.append(15)
    first = spool.inventory.segments[0]
    for _ in range(2):
        spool.inventory.mark_unreadable(first, Ranges([(2, 4), (7, 8)]))
    assert spool.inventory.lost == {"evicted": 0, "rot": 3}
    spool.remove(spool.rules.write_failed(disk_full=True))
    assert spool.inventory.lost == {"evicted": PAIRS - 3, "rot": 3}
    spool.inventory.mark_unreadable(first, Ranges([(0, PAIRS)]))
    assert spool.inventory.lost["rot"] == 3  # it is gone already


def test_the_newest_full_segment_is_not_sealed_and_a_deleted_one_neither() -> None:
    spool = simulated()
    spool.append(35)
    segment = spool.rules.next_to_seal()
    assert segment is spool.inventory.segments[0]
    spool.acknowledge("one", 10)
    spool.rules.sealed(segment, State.SEALED, Size(1, 0))  # it was deleted while it was being sealed
    assert segment.state is State.DELETED
    spool.seal()
    assert [segment.state for segment in spool.inventory.segments] == [State.SEALED, State.FULL, State.OPEN]


@pytest.mark.parametrize("seed", range(20))
def test_random_work_keeps_every_pair_that_is_neither_acknowledged_by_all_nor_counted_as_lost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spool = simulated()
    acknowledged = {"one": 0, "two": 0}
    for name in acknowledged:
        spool.acknowledge(name, 0)
    for _ in range(300):
        spool.now_s += 1.0
        match int(rng.integers(5)):
            case 0 | 1:
                spool.append(int(rng.integers(1, 25)))
            case 2:
                name = str(rng.choice(list(acknowledged)))
                upto = int(rng.integers(spool.inventory.end + 1))
                spool.acknowledge(name, upto)
                acknowledged[name] = max(upto, acknowledged[name])
            case 3:
                spool.seal()
            case 4:
                spool.free_bytes = int(rng.choice([PLENTY_BYTES, 3 * PAIRS * PAIR_BYTES]))
        stats, end = spool.rules.stats(0.0), spool.inventory.end
        assert stats.bytes <= LIMITS.max_bytes
        lacking = missing(spool.inventory, EPOCH, min(acknowledged.values()), end).count
        assert lacking <= stats.lost["evicted"] + stats.unspooled
        assert stats.pairs == sum(segment.end - segment.first for segment in spool.inventory.segments)
