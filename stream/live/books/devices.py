"""The books of all devices of a ledger, and their bounds: names from the network must not take memory without end. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

import msgspec

from stream.errors import MalformedMessage
from stream.live.books.device_book import COUNTS, DeviceBook, DeviceCursor
from stream.live.books.epoch_book import EpochBook, RangeBudget
from stream.live.books.forgetting import Forgetting
from stream.pair import Count, Device
from stream.source import Cursor

MAX_DEVICES = 1024
MAX_RANGES = 1 << 16


class LedgerCursor(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The cursor of a ledger: one part for each device, and the counts of forgotten ones."""

    devices: Annotated[dict[Device, DeviceCursor], msgspec.Meta(max_length=MAX_DEVICES)]
    forgotten: Annotated[dict[str, Count], msgspec.Meta(max_length=len(COUNTS))] = {}


class Devices:
    """Finds the book of a device or an epoch, and makes new ones.

    cursor: of the process before. Raises ValueError for anything else. endpoints: how many there are.
    max_devices, max_epochs: when one is reached, what is complete and gone is forgotten, then what no honest rig needs (see
    `Forgetting`). If there is nothing of the kind, the new name is refused as a malformed header. max_ranges: of known numbers in
    all epochs together. The same limit holds for lost ranges: of those beyond it, the oldest are only counted.
    """

    def __init__(
        self, cursor: Cursor | None, *, endpoints: int, max_devices: int, max_epochs: int, max_ranges: int
    ) -> None:
        self.of: dict[str, DeviceBook] = {}
        """The book of each device, by its name."""
        self.name_at: dict[int, str] = {}
        """The device whose spool has answered, by endpoint."""
        self.heard: set[int] = set()
        """Endpoints that have said in this process what they have."""
        self.forgotten = Counter[str]()
        """The counts of devices that were forgotten."""
        self._endpoints = endpoints
        self._max_devices, self._max_epochs = max_devices, max_epochs
        self._budget = RangeBudget(max_ranges)
        self._epochs = 0
        if cursor is not None:
            try:
                kept = msgspec.convert(cursor, LedgerCursor)
            except msgspec.ValidationError as error:
                raise ValueError(f"this is not the cursor of a live stream ({error})") from error
            self.of = {name: DeviceBook.restore(one, self._budget) for name, one in kept.devices.items()}
            self._epochs = sum(len(device.epochs) for device in self.of.values())
            self.forgotten.update(kept.forgotten)

    def cursor(self) -> Cursor:
        """Return the done numbers, as JSON values: see `stream.source.Cursor`."""
        devices = {name: device.cursor() for name, device in self.of.items()}
        return dict(msgspec.to_builtins(LedgerCursor(devices=devices, forgotten=dict(self.forgotten))))

    @property
    def all_heard(self) -> bool:
        """Whether every endpoint has said in this process what it has, so that an epoch without an owner is nowhere."""
        return len(self.heard) >= self._endpoints

    def find(self, name: str, epoch: str, seq: int, now_s: float, endpoint: int) -> tuple[DeviceBook, EpochBook]:
        """Return a device and its epoch, new ones if they are not known yet.

        A new epoch begins at `seq`, or at 0 if this consumer wants its earlier pairs too. Raises MalformedMessage if there is no
        room for a new name.
        """
        device = self.of.get(name)
        if (device is None or epoch not in device.epochs) and self._epochs >= self._max_epochs:
            self._make_room("epochs", self._max_epochs)
            device = self.of.get(name)
        if device is None:
            if len(self.of) >= self._max_devices:
                self._make_room("devices", self._max_devices)
            device = self.of[name] = DeviceBook()
        book = device.epochs.get(epoch)
        if book is None:
            first = 0 if device.spool_known else seq
            book = EpochBook(self._budget, device.counts, first=first, head=seq, since_s=now_s, speaker=endpoint)
            device.epochs[epoch] = book
            self._epochs += 1
        return device, book

    def _make_room(self, what: Literal["epochs", "devices"], limit: int) -> None:
        """Forget what is needed least. Raises MalformedMessage if everything is needed."""
        crowd = Forgetting(self.of, self.name_at, limit // (2 * self._endpoints), all_heard=self.all_heard)
        names = crowd.epochs_to_forget() if what == "epochs" else crowd.devices_to_forget()
        if not names:
            raise MalformedMessage("header", f"there are more than {limit} {what}")
        for name, epoch in names:
            self.of[name].forget(epoch)
        self._epochs -= len(names)
        empty = [name for name, device in self.of.items() if not device.epochs]
        for name in empty:
            self.forgotten.update(+self.of.pop(name).counts)
