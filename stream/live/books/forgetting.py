"""What a ledger forgets when it knows too many epochs or devices. Pure."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from stream.live.books.device_book import DeviceBook
from stream.live.books.epoch_book import EpochBook, EpochState

_T = TypeVar("_T")
_PART = 16
"""At most this part of all epochs, or of all devices, is forgotten at once, so that a flood of names costs little time."""

log = logging.getLogger(__name__)


class Forgetting:
    """Decides what is forgotten when there are too many epochs or devices.

    First the oldest epoch that is complete and gone. Then what belongs to an endpoint that has named more than its share, which
    no honest rig does, and what belongs to nobody and gave no pair. An epoch that gave pairs stays while its spool names it, or
    while its owner may not have been heard yet: its pairs would come again.
    """

    def __init__(
        self, devices: Mapping[str, DeviceBook], device_at: Mapping[int, str], share: int, *, all_heard: bool
    ) -> None:
        self._devices, self._device_at, self._all_heard = devices, device_at, all_heard
        self._share = share

    def epochs_to_forget(self) -> list[tuple[str, str]]:
        """Return devices and epochs; none if all are needed."""
        books = [(name, epoch, book) for name, device in self._devices.items() for epoch, book in device.epochs.items()]
        for name, epoch, book in books:
            if epoch != self._devices[name].live and book.is_forgettable():
                return [(name, epoch)]
        claims = Counter(book.owner for _, _, book in books)
        idle = [
            (book.received if book.owner is None else 0, self._received(name), (name, epoch))
            for name, epoch, book in books
            if self._may_go(name, book, claims) and not (self._received(name) and len(self._devices[name].epochs) == 1)
        ]
        return _of_least_worth(idle, len(books), "epochs")

    def devices_to_forget(self) -> list[tuple[str, str]]:
        """Return all epochs of the devices to forget; none if all are needed."""
        claims = Counter(
            owner for device in self._devices.values() for owner in {b.owner for b in device.epochs.values()}
        )
        idle = [
            (self._received(name) if any(b.owner is None for b in device.epochs.values()) else 0, 0, name)
            for name, device in self._devices.items()
            if all(self._may_go(name, book, claims) for book in device.epochs.values())
        ]
        names = _of_least_worth(idle, len(self._devices), "device names")
        return [(name, epoch) for name in names for epoch in self._devices[name].epochs]

    def _received(self, name: str) -> int:
        return self._devices[name].counts["received"]

    def _may_go(self, name: str, book: EpochBook, claims: Mapping[int | None, int]) -> bool:
        if book.done != book.known:
            return False
        if book.owner is None:
            return self._all_heard or not book.received
        is_named = book.state is EpochState.SPOOLED and self._device_at.get(book.owner) == name
        return claims[book.owner] > self._share and not (is_named and book.received)


def _of_least_worth(idle: list[tuple[int, int, _T]], total: int, what: str) -> list[_T]:
    """Return those that cost nothing, up to a part of all; if there are none, the one that costs least.

    idle: each with its cost, the pairs that were received of it if it belongs to nobody; then the pairs of its device.
    """
    idle.sort(key=lambda one: one[:2])
    count = sum(not cost for cost, _, _ in idle)
    chosen = [name for _, _, name in idle[: max(1, min(count, total // _PART))]]
    if chosen:
        text = "too many %s: %d are forgotten, which belong to nobody or to an endpoint that names too many"
        log.warning(text, what, len(chosen))
    return chosen
