"""The file `consumers.json` of a spool: small, with a checksum, replaced as a whole.

If it is damaged or missing, the list begins empty: pairs are then offered again, and a consumer drops those it has.
"""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path
from typing import Annotated

import msgspec

from device.spool.consumers import MAX_CONSUMERS, NAME, SavedConsumer, SavedConsumers
from stream.fsync import sync_path

MAX_FILE_BYTES = 16 << 20

log = logging.getLogger(__name__)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    crc: int
    complete: bool
    consumers: Annotated[dict[str, SavedConsumer], msgspec.Meta(max_length=MAX_CONSUMERS)]


def load_consumers(path: Path) -> SavedConsumers:
    """The list in a file; an empty one if the file is damaged or missing."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is too large")
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        saved = SavedConsumers(file.complete, file.consumers)
        if file.crc != _crc(saved) or not all(map(NAME.fullmatch, saved.consumers)):
            raise ValueError("its checksum differs")
    except FileNotFoundError:
        return SavedConsumers()
    except (ValueError, OSError, msgspec.MsgspecError, RecursionError) as error:
        log.warning(
            "%s is damaged (%s): the list begins empty, and consumers are offered pairs again that they have",
            path,
            error,
        )
        return SavedConsumers()
    return saved


def save_consumers(path: Path, saved: SavedConsumers) -> None:
    """Replace the file; raises OSError, and the old file stays then. It is slow, so do not hold a lock during the call."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(msgspec.json.encode(_File(_crc(saved), saved.complete, dict(saved.consumers))))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_path(path.parent)


def _crc(saved: SavedConsumers) -> int:
    return zlib.crc32(msgspec.json.encode((saved.complete, saved.consumers)))
