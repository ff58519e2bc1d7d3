"""What a spool remembers of its consumers from one process to the next. `file.py` reads and writes it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from device.spool.inventory import EarlierEpoch
from stream.live.backfill_messages import MAX_EPOCHS
from stream.pair import Count, Epoch

MAX_CONSUMERS = 64


class SavedConsumer(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One consumer as it is saved in the file."""

    heard_s: float | None = None
    """Time of its last message, seconds since 1970; only in files of earlier versions, and not used."""
    upto: Annotated[dict[Epoch, Count], msgspec.Meta(max_length=MAX_EPOCHS)]
    silent_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds for which the rig was running since its last message."""
    proven: bool = True
    """Whether it has ever acknowledged a pair."""
    owner: str | None = None
    """The name of the key that owns it; None where there are no keys."""
    kept_from: Annotated[dict[Epoch, Count], msgspec.Meta(max_length=MAX_EPOCHS)] | None = None
    """See `Consumers.kept_from`; None in files of earlier versions."""
    known_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Seconds for which the rig was running since it came; None in files of earlier versions."""


class SavedConsumers(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a spool remembers in the file: its consumers, and the epochs of which it holds no pair any more."""

    crc: int = 0
    """Checksum of the other fields; 0 outside of a file."""
    complete: bool = False
    """Whether every consumer had time to report, so that the list lacks none."""
    consumers: Annotated[dict[str, SavedConsumer], msgspec.Meta(max_length=MAX_CONSUMERS)] = {}
    epochs: Annotated[dict[Epoch, EarlierEpoch], msgspec.Meta(max_length=MAX_EPOCHS)] = {}
    """A second copy of what the `.head` files of these epochs say."""
