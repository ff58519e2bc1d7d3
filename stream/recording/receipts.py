"""What a recorder knows of an epoch beside its pairs: where the recording began, and which pairs are LOST.

A recording holds receipts among its pairs, as messages that other readers pass over. Each adds to those before it, in all
files of a recording and in any order: nothing that a receipt says is ever taken back. So a recorder that was killed at any byte
goes on from whatever is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Any

import msgspec
from google.protobuf.message import DecodeError

from stream.pair import Count, Device, Epoch
from stream.ranges import Ranges
from stream.recording.payload import is_json, protobuf_schema
from stream.recording.protobuf import Kind, fields_of, message_class

MAX_RANGES = 4096
"""Largest number of ranges in one receipt; more go into several."""
MAX_RECEIPT_BYTES = 64 * MAX_RANGES
"""Largest receipt: two of the largest numbers take 42 bytes as JSON, in recordings of 0.1, and 20 otherwise."""

Recorded = Mapping[str, Mapping[str, Iterable[tuple[int, int]]]]
"""For each device and epoch, the ranges [a, b) of the recorded pairs."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one epoch. Additional fields of later versions are ignored. Raises ValueError for an empty range."""

    device: Device
    epoch: Epoch
    joined: Count
    """The first number that the recording is to have."""
    head: Count
    """One past the largest number that is known to exist."""
    lost: Annotated[list[tuple[Count, Count]], msgspec.Meta(max_length=MAX_RANGES)] = []
    """Ranges [a, b) of pairs that the recording will never have, as far as earlier receipts do not name them."""
    gone: bool = False
    """Whether no rig has the epoch any more."""
    spooled: bool | None = None
    """Whether its rig keeps a spool, as far as it is known."""
    met: bool = False
    """Whether a spool has named the epochs of the device."""

    def __post_init__(self) -> None:
        if any(first >= last for first, last in self.lost):
            raise ValueError("a lost range is empty")


@dataclass(slots=True)
class _Epoch:
    joined: int
    head: int = 0
    gone: bool = False
    spooled: bool | None = None
    lost: Ranges = field(default_factory=Ranges)


class Receipts:
    """All receipts of a recording together."""

    def __init__(self) -> None:
        self._epochs: dict[tuple[str, str], _Epoch] = {}
        self._met: set[str] = set()

    def add(self, receipt: Receipt) -> None:
        """Add what a receipt says."""
        epoch = self._epochs.setdefault((receipt.device, receipt.epoch), _Epoch(receipt.joined))
        epoch.joined, epoch.head = min(epoch.joined, receipt.joined), max(epoch.head, receipt.head)
        epoch.gone |= receipt.gone
        epoch.spooled = receipt.spooled if epoch.spooled is None else epoch.spooled or bool(receipt.spooled)
        for first, last in receipt.lost:
            epoch.lost.add(first, last)
        if receipt.met:
            self._met.add(receipt.device)

    def lost(self, recorded: Recorded) -> dict[tuple[str, str], Ranges]:
        """Return, by device and epoch, the lost pairs that are not recorded all the same."""
        lost = {}
        for (device, name), epoch in self._epochs.items():
            pairs = Ranges(recorded.get(device, {}).get(name, ()))
            lost[device, name] = Ranges(hole for first, last in epoch.lost for hole in pairs.missing(first, last))
        return {key: ranges for key, ranges in lost.items() if len(ranges)}

    def all(self) -> Iterator[Receipt]:
        """Yield receipts that say all of this again."""
        for (device, name), epoch in self._epochs.items():
            yield from _receipts(device, name, epoch, list(epoch.lost), met=device in self._met)

    def update(self, cursor: Mapping[str, Any]) -> list[Receipt]:
        """Return the receipts by which the cursor of a live stream says more than all before, and add them."""
        news: list[Receipt] = []
        for device, part in cursor.get("devices", {}).items():
            is_met = part["met"] and device not in self._met
            for name, one in part["epochs"].items():
                new = _Epoch(one["joined"], one["head"], one["gone"], one.get("spooled"))
                known = self._epochs.get((device, name))
                before = Ranges() if known is None else known.lost
                lost = [hole for first, last in one["lost"] for hole in before.missing(first, last)]
                if lost or is_met or known is None or _says_more(new, known, done=one["done"]):
                    news += _receipts(device, name, new, lost, met=part["met"])
        for receipt in news:
            self.add(receipt)
        return news

    def cursor(self, recorded: Recorded) -> dict[str, Any]:
        """Return a cursor of a live stream, which goes on where the recording ends."""
        all_lost = self.lost(recorded)
        keys = [(device, epoch) for device, epochs in recorded.items() for epoch in epochs]
        devices: dict[str, dict[str, Any]] = {}
        for device, name in dict.fromkeys([*self._epochs, *keys]):
            pairs = Ranges(recorded.get(device, {}).get(name, ()))
            first = min((first for first, _ in pairs), default=0)
            epoch = self._epochs.get((device, name)) or _Epoch(first)
            lost = all_lost.get((device, name), Ranges())
            done = Ranges([*pairs, *lost])
            one: dict[str, Any] = {
                "joined": min([epoch.joined, *(first for first, _ in done)]),
                "head": max(epoch.head, done.end),
            }
            one |= {"done": [*done], "lost": [*lost], "gone": epoch.gone}
            one |= {} if epoch.spooled is None else {"spooled": epoch.spooled}
            counts = {"received": 0, "lost": 0}
            part = devices.setdefault(device, {"epochs": {}, "counts": counts, "met": device in self._met})
            part["epochs"][name] = one
            part["counts"]["received"] += pairs.count
            part["counts"]["lost"] += lost.count
        return {"devices": devices}


def _says_more(new: _Epoch, known: _Epoch, *, done: Sequence[Sequence[int]]) -> bool:
    """Return whether an epoch is known better than before. Numbers below the last done one exist, so they need no receipt."""
    head = max(known.head, done[-1][1] if done else 0)
    is_spooled = new.spooled is not None and known.spooled is not True and new.spooled != known.spooled
    return new.joined < known.joined or new.head > head or new.gone > known.gone or is_spooled


def _receipts(device: str, name: str, epoch: _Epoch, lost: list[tuple[int, int]], *, met: bool) -> Iterator[Receipt]:
    for at in range(0, max(1, len(lost)), MAX_RANGES):
        yield Receipt(
            device=device,
            epoch=name,
            joined=epoch.joined,
            head=epoch.head,
            lost=lost[at : at + MAX_RANGES],
            gone=epoch.gone,
            spooled=epoch.spooled,
            met=met,
        )


_KINDS: dict[str, Kind] = {"device": "string", "epoch": "string", "joined": "int64", "head": "int64", "lost": "int64s"}
_Receipt = message_class("babyagent.Receipt", _KINDS | dict.fromkeys(("gone", "spooled", "met"), "bool"))
_decoder = msgspec.json.Decoder(Receipt)
RECEIPT = protobuf_schema(_Receipt)


def encode_receipt(receipt: Receipt) -> bytes:
    """Encode a receipt as a message, with the first and last numbers of its lost ranges in one list."""
    values = msgspec.to_builtins(receipt)
    data: bytes = _Receipt(**values | {"lost": list(chain.from_iterable(receipt.lost))}).SerializeToString()
    return data


def read_receipt(data: memoryview) -> Receipt:
    """Decode a receipt in a message, which is JSON in recordings of 0.1. Raises ValueError for anything else."""
    if len(data) > MAX_RECEIPT_BYTES:  # each byte may be a number, which takes dozens of them once it is decoded
        raise ValueError(f"a receipt of {len(data)} bytes is out of bounds")
    try:
        if is_json(data):
            return _decoder.decode(data)
        values = fields_of(_Receipt.FromString(bytes(data)))
        lost = iter(values.pop("lost", ()))
        return msgspec.convert(values | {"lost": list(zip(lost, lost, strict=True))}, Receipt)
    except (msgspec.MsgspecError, DecodeError, RecursionError) as error:
        raise ValueError(f"the receipt does not decode: {error}") from error
