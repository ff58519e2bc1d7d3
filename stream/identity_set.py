"""A set of pair identities, for example those of all recorded pairs.

It can be stored as a cursor, and so survives the process.
"""

from __future__ import annotations

import msgspec

from stream.pair import Count, Header
from stream.ranges import Ranges
from stream.source import Cursor


class _IdentityCursor(msgspec.Struct, forbid_unknown_fields=True):
    """The set as a cursor: for each device and epoch the ranges [a, b) of its numbers."""

    devices: dict[str, dict[str, list[tuple[Count, Count]]]]


class IdentitySet:
    """A set of pair identities. Raises ValueError for a cursor that was not made by such a set."""

    def __init__(self, cursor: Cursor | None = None) -> None:
        self._ranges: dict[tuple[str, str], Ranges] = {}
        if cursor is not None:
            try:
                kept = msgspec.convert(cursor, _IdentityCursor)
            except msgspec.ValidationError as error:
                raise ValueError(f"the cursor is not of a recording: {error}") from error
            for device, epochs in kept.devices.items():
                for epoch, ranges in epochs.items():
                    self._ranges[device, epoch] = Ranges(ranges)

    def __contains__(self, header: Header) -> bool:
        ranges = self._ranges.get((header.device, header.epoch))
        return ranges is not None and header.seq in ranges

    def add(self, header: Header) -> bool:
        """Add the identity of a pair; return whether it is new."""
        ranges = self._ranges.setdefault((header.device, header.epoch), Ranges())
        return ranges.add(header.seq, header.seq + 1) == 1

    def cursor(self) -> Cursor:
        """Return the set as JSON values."""
        devices: dict[str, dict[str, list[list[int]]]] = {}
        for (device, epoch), ranges in self._ranges.items():
            devices.setdefault(device, {})[epoch] = [[first, last] for first, last in ranges]
        return {"devices": devices}
