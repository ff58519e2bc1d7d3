"""The account of what arrived: which pair is next, which were lost on the way, which came twice.

Pure: no socket, no thread, no clock. A pair is new when its number is not below the next expected one of its
`(device, epoch)`; the numbers it skips are lost. Nothing fills a hole yet, so a lower number is a repetition.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stream.control import Position
from stream.errors import MalformedMessage
from stream.pair import EncodedPair

MAX_DEVICES = 1024
"""A device further is refused as a malformed header: a name on the network must not take memory without end."""
MAX_EPOCHS = 4096
"""Epochs remembered after another one began; the one left longest ago is forgotten."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """One device as its subscriber knows it. The counts go on over epochs, the positions are of the last one."""

    epoch: str
    joined_seq: int
    """First pair of this epoch that could have come here; the ones before it are not counted as lost."""
    next_seq: int
    received: int = 0
    lost: int = 0
    repeated: int = 0
    suppressed: int = 0
    junk: int = 0
    ended: bool = False
    last_received_s: float | None = None
    """When its last pair came, by the subscriber's clock; None before the first."""


@dataclass(frozen=True, slots=True)
class SubscriberStats:
    """Everything that came, counted since the subscriber was made."""

    received: int = 0
    bytes: int = 0
    """Encoded images of the received pairs."""
    lost: int = 0
    repeated: int = 0
    malformed: Mapping[str, int] = field(default_factory=dict)
    """Messages dropped, by reason of `stream.pair.REASONS`."""
    devices: Mapping[str, DeviceStats] = field(default_factory=dict)


class Arrivals:
    """Takes everything that came, in its order, and says which pairs are new."""

    def __init__(self) -> None:
        self._devices: dict[str, DeviceStats] = {}
        self._malformed: Counter[str] = Counter()
        self._bytes = 0
        self._left: dict[tuple[str, str], int] = {}  # where an epoch stood when another one began
        self._shared: set[str] = set()

    def pair(self, pair: EncodedPair, now_s: float) -> bool:
        """Count a pair; False where it came before and is to be dropped."""
        header = pair.header
        was = self._reach(header.device, header.epoch, header.seq)
        if header.seq < was.next_seq:
            self._devices[header.device] = replace(was, repeated=was.repeated + 1)
            return False
        self._bytes += len(pair.left) + len(pair.right)
        self._devices[header.device] = replace(
            was,
            next_seq=header.seq + 1,
            received=was.received + 1,
            suppressed=was.suppressed + header.suppressed,
            junk=was.junk + header.junk,
            ended=False,
            last_received_s=now_s,
        )
        return True

    def hello(self, position: Position) -> None:
        """Take note of where a device is; what should have come before it is lost."""
        self._reach(position.device, position.epoch, position.next_seq)

    def bye(self, position: Position) -> None:
        """Take note that a device has sent all it will send in this epoch."""
        was = self._reach(position.device, position.epoch, position.next_seq)
        self._devices[position.device] = replace(was, ended=True)

    def malformed(self, reason: str) -> None:
        """Count a message that was dropped."""
        self._malformed[reason] += 1

    def all_ended(self, devices: int) -> bool:
        """Whether at least so many devices came and every one that came said bye."""
        return len(self._devices) >= devices and all(device.ended for device in self._devices.values())

    def stats(self) -> SubscriberStats:
        """The account as of now."""
        devices = dict(self._devices)
        return SubscriberStats(
            received=sum(device.received for device in devices.values()),
            bytes=self._bytes,
            lost=sum(device.lost for device in devices.values()),
            repeated=sum(device.repeated for device in devices.values()),
            malformed=dict(self._malformed),
            devices=devices,
        )

    def _reach(self, device: str, epoch: str, seq: int) -> DeviceStats:
        """The device's state once its count stands at `seq` or further; what was skipped is lost."""
        was = self._devices.get(device)
        if was is None:
            if len(self._devices) >= MAX_DEVICES:
                raise MalformedMessage(
                    "header", f"{device} is one device more than the {MAX_DEVICES} that are followed"
                )
            now = DeviceStats(epoch=epoch, joined_seq=seq, next_seq=seq)
        else:
            if was.epoch != epoch:
                was = self._turn(device, was, epoch, seq)
            now = replace(was, lost=was.lost + max(0, seq - was.next_seq), next_seq=max(seq, was.next_seq))
        self._devices[device] = now
        return now

    def _turn(self, device: str, was: DeviceStats, epoch: str, seq: int) -> DeviceStats:
        """The device in another epoch: at its beginning, or where it stood when it was left.

        A device that starts anew never comes back to an old epoch. Two devices of one name do, with every pair.
        """
        self._left[device, was.epoch] = was.next_seq
        while len(self._left) > MAX_EPOCHS:
            self._left.pop(next(iter(self._left)))
        back_at = self._left.pop((device, epoch), None)
        if back_at is not None and device not in self._shared:
            self._shared.add(device)
            log.warning("two devices are named %s: give each a --name of its own", device)
        at = seq if back_at is None else back_at
        return replace(was, epoch=epoch, joined_seq=at, next_seq=at, ended=False)
