"""A rig's spool without files, threads and clocks: the real rules, a disk of plain values, and anything that may happen to it."""

from __future__ import annotations

import msgspec

from device.spool.consumers import RETRY_SAVE_S, Consumers, SavedConsumers
from device.spool.inventory import EarlierEpoch, Inventory, joined
from device.spool.rules import SpoolLimits, SpoolRules
from device.spool.segment import Removal, Segment, Size, State

PAIR_BYTES = 100
SEGMENT_PAIRS = 5
LIMITS = SpoolLimits(
    max_bytes=16 * SEGMENT_PAIRS * PAIR_BYTES, free_floor_bytes=0, segment_bytes=SEGMENT_PAIRS * PAIR_BYTES
)
WEEK_S = 7 * 86400.0
GRACE_S = 60.0
FREE_BYTES = 1 << 40
WAITS_S = (1.0, 59.0, 600.0, 86400.0, 8 * 86400.0)


class SimulatedRig:
    """A rig and its disk. What can happen to it are methods that take a number to play with."""

    def __init__(self, limits: SpoolLimits = LIMITS) -> None:
        self._limits = limits
        self.now_s = 0.0
        self.epochs: dict[str, int] = {}
        """Every epoch in the order of their beginning, and the number of its pairs."""
        self.refuses_saving = False
        self.segments: list[Segment] = []
        self._ends: dict[str, EarlierEpoch] = {}
        self._synced_end = 0
        self._saved = SavedConsumers()
        self._start()

    @property
    def inventory(self) -> Inventory:
        """The inventory of the process that runs."""
        return self.rules.inventory

    def acknowledge(self, name: str, upto: dict[str, int], key: str | None) -> None:
        """A consumer asks or acknowledges."""
        _, removal = self.rules.acknowledge(name, upto, self.now_s, key)
        self._remove(removal)
        self._save()

    def append(self, _: int) -> None:
        """The rig keeps a pair."""
        epoch, seq = self.inventory.epoch, self.inventory.end
        enough, removal = self.rules.make_room(PAIR_BYTES, FREE_BYTES, self.now_s)
        self._remove(removal)
        assert enough, "there is no room on an empty card"
        if not self.rules.fits_open(seq, PAIR_BYTES):
            self._remove(self.rules.close_open())
            segment = Segment(self.inventory.run, epoch, first=seq, end=seq, state=State.OPEN)
            self.rules.begin(segment)
            self.segments.append(segment)
            while (full := self.rules.next_to_seal()) is not None:
                self.rules.sealed(full, State.SEALED, Size(full.size.disk_bytes, 0))
        segment = self.segments[-1]
        size_bytes = (segment.end - segment.first + 1) * PAIR_BYTES
        self.rules.appended(segment, Size(size_bytes, size_bytes))
        self.rules.offered(seq, spooled=True)
        self.epochs[epoch] = seq + 1
        self._ends[epoch] = EarlierEpoch(self.inventory.run, seq + 1)
        self._save()

    def append_many(self, number: int) -> None:
        """The rig keeps so many pairs that the oldest are evicted now and then."""
        for _ in range(3 * SEGMENT_PAIRS * (1 + number % 3)):
            self.append(0)

    def restart(self, _: int) -> None:
        """The rig is stopped and started."""
        self._stop()
        self._start()

    def kill_rig(self, _: int) -> None:
        """kill -9."""
        self._start()

    def cut_power(self, number: int) -> None:
        """The last pairs were not synced, and neither was the file with the end of the epoch."""
        epoch = self.inventory.epoch
        segment = self.rules.open
        if segment is not None:
            segment.end = max(segment.first, segment.end - number % 3)
            self.epochs[epoch] = segment.end
            if segment.empty:
                self.segments.remove(segment)
        if epoch in self._ends:
            self._ends[epoch] = EarlierEpoch(self.inventory.run, self._synced_end)
        if not any(segment.epoch == epoch for segment in self.segments):
            self.epochs[epoch] = min(self.epochs[epoch], self._synced_end)
        self._start()

    def set_clock(self, _: int) -> None:
        """The machine starts anew: its monotonic clock begins at 0, and its time of day is anything."""
        self._start(now_s=0.0)

    def wait(self, number: int) -> None:
        """Time passes while the rig is up."""
        self.now_s += WAITS_S[number % len(WAITS_S)]
        self._save()

    def damage_list(self, _: int) -> None:
        """consumers.json is damaged while the rig is off."""
        self._settle()
        self._saved = SavedConsumers()
        self._start()
        self._settle()

    def damage_end(self, number: int) -> None:
        """One .head file is damaged while the rig is off."""
        self._settle()
        if number % 2:
            self._stop()
        if self._ends:
            epoch = list(self._ends)[number % len(self._ends)]
            self._ends[epoch] = EarlierEpoch(self._ends[epoch].run, 0)
        self._start()
        self._settle()

    def delete_end(self, number: int) -> None:
        """One .head file is deleted while the rig is off."""
        self._settle()
        if number % 2:
            self._stop()
        if self._ends:
            del self._ends[list(self._ends)[number % len(self._ends)]]
        self._start()
        self._settle()

    def refuse_saving(self, number: int) -> None:
        """The disk refuses consumers.json for a while, or no longer."""
        self.refuses_saving = bool(number % 2)

    def _start(self, now_s: float | None = None) -> None:
        """A new process finds what the last one left."""
        self.now_s = self.now_s if now_s is None else now_s
        self.segments = [segment for segment in self.segments if not segment.empty]
        for segment in self.segments:
            segment.state, segment.size = State.SEALED, Size(segment.size.disk_bytes, 0)
        for segment in {segment.epoch: segment for segment in self.segments}.values():
            segment.extend(self._ends[segment.epoch].end if segment.epoch in self._ends else 0)
        earlier = joined(self._ends, self._saved.epochs)
        runs = [segment.run for segment in self.segments] + [one.run for one in earlier.values()]
        epoch, run = f"{len(self.epochs):032x}", 1 + max(runs, default=0)
        self.epochs[epoch] = self._synced_end = 0
        saved = msgspec.convert(
            msgspec.to_builtins(self._saved), SavedConsumers
        )  # nothing is shared with the last process
        consumers = Consumers(saved, now_s=self.now_s, forget_after_s=WEEK_S, grace_s=GRACE_S)
        self.rules = SpoolRules(self._limits, Inventory(epoch, self.segments, earlier, run=run), consumers)
        for name, one in self.inventory.emptied().items():
            self._ends[name] = EarlierEpoch(one.run, one.end)
        self._remove(self.rules.free(self.now_s))
        self._save()

    def _stop(self) -> None:
        """The process closes the spool."""
        self._remove(self.rules.close_open() + self.rules.free(self.now_s))
        self._save()

    def _settle(self) -> None:
        """The disk takes what waits to be saved: files are damaged one by one, and each one is written anew from the others."""
        self.refuses_saving = False
        self.now_s += RETRY_SAVE_S
        self._save()

    def _remove(self, removal: Removal) -> None:
        for run, epoch, end in removal.emptied:
            self._ends[epoch] = EarlierEpoch(run, end)
            if epoch == self.inventory.epoch:
                self._synced_end = end
        self.segments = [segment for segment in self.segments if segment not in removal.segments]
        for epoch in removal.forgotten:
            self._ends.pop(epoch, None)

    def _save(self) -> None:
        saved = self.rules.to_save(self.now_s)
        if saved is None:
            return
        if self.refuses_saving:
            self.rules.save_failed(self.now_s)
        else:
            self._saved = saved
            self.rules.saved(self.now_s)
