"""The folder of a simulated spool, in dictionaries: it can be damaged, copied and restored."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from device.spool.consumers.saved import SavedConsumers
from device.spool.inventory import EarlierEpoch, Inventory, joined
from device.spool.segment import Removal, Segment, State
from stream.ranges import Ranges


@dataclass
class Disk:
    """What lies in the folder of a spool."""

    segments: list[Segment] = field(default_factory=list)
    ends: dict[str, EarlierEpoch] = field(default_factory=dict)
    """The `.head` files: an end of 0 is a damaged one."""
    saved: SavedConsumers = field(default_factory=SavedConsumers)
    came: dict[str, int] = field(default_factory=dict)
    """See `SimulatedRig.came`, for the saved consumers."""

    def copy(self) -> Disk:
        """Return a copy, as of a folder whose process is dead."""
        segments = [replace(one, rotten=Ranges(one.rotten)) for one in self.segments]
        return Disk(segments, dict(self.ends), self.saved, self.came)

    def cut(self, random: Random) -> None:
        """Lose the newest pairs, and perhaps the number of them."""
        if self.segments:
            newest = self.segments[-1]
            newest.end = random.randint(newest.first, newest.end)
            end = self.ends.get(newest.epoch)
            if end is not None:
                self.ends[newest.epoch] = EarlierEpoch(end.run, random.choice((end.end, newest.end)))
            if newest.end == newest.first:
                self.segments.remove(newest)

    def take_inventory(self, epoch: str) -> Inventory:
        """Return what a process of this epoch finds, as `device.spool.folder.SpoolFolder` does."""
        for segment in self.segments:
            segment.state = State.FULL
        newest = {segment.epoch: segment for segment in self.segments}
        for name, one in self.ends.items():
            if name in newest:
                newest[name].extend(one.end)
        earlier = joined(self.ends, self.saved.epochs)
        runs = [one.run for one in self.segments] + [one.run for one in earlier.values()]
        inventory = Inventory(epoch, self.segments, earlier, run=1 + max(runs, default=0))
        for name, one in inventory.emptied().items():
            self.ends[name] = EarlierEpoch(one.run, one.end)
        return inventory

    def carry_out(self, removal: Removal, inventory: Inventory) -> None:
        """Delete what the rules have decided; the segments of the inventory are then those of the disk."""
        for run, epoch, end in removal.emptied:
            self.ends[epoch] = EarlierEpoch(run, end)
        for epoch in removal.forgotten:
            self.ends.pop(epoch, None)
        self.segments = inventory.segments
