"""When the list of consumers is saved, and what is saved with it. Pure: the time is passed in."""

from __future__ import annotations

import msgspec

from device.spool.consumers.consumers import Consumers
from device.spool.consumers.saved import SavedConsumers
from device.spool.inventory import EarlierEpoch, Inventory

SAVE_INTERVAL_S = 600.0
"""The times of silence in the file may be this much out of date; all other changes are saved at once."""
RETRY_SAVE_S = 5.0
"""Seconds until a save that failed is tried again."""


class Saving:
    """Decides when the consumers, and the epochs that no segment would name, are to be saved. Times are monotonic seconds."""

    def __init__(self, consumers: Consumers, inventory: Inventory) -> None:
        self._consumers, self._inventory = consumers, inventory
        self._begun: tuple[int, dict[str, EarlierEpoch]] | None = None
        self._saved: tuple[int, dict[str, EarlierEpoch]] | None = None
        self._due_s = self._retry_s = float("-inf")

    def begin(self, now_s: float, *, at_end: bool = False) -> SavedConsumers | None:
        """Return what is to be saved now; None if the file is up to date, or if saving has failed a moment ago.

        at_end: whether the process ends, so that the times of silence are saved too.
        The caller saves it and then calls `done` or `failed`, before it calls this again.
        """
        state = self._consumers.changes, self._inventory.to_save()
        is_due = state != self._saved or now_s >= self._due_s
        if not at_end and (not is_due or now_s < self._retry_s):
            return None
        self._begun = state
        return msgspec.structs.replace(self._consumers.to_save(now_s), epochs=state[1])

    def done(self, now_s: float) -> None:
        """Record that what `begin` returned is durable."""
        self._saved, self._due_s = self._begun, now_s + SAVE_INTERVAL_S

    def failed(self, now_s: float) -> None:
        """Record that what `begin` returned could not be saved."""
        self._retry_s = now_s + RETRY_SAVE_S
