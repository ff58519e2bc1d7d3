"""The file `consumers.json` of a spool: small, with a checksum, replaced as a whole.

If it is damaged or missing, the list begins empty: pairs are then offered again, and a consumer drops those it has. The epochs
without pairs are then known from their `.head` files.
"""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from device.spool.consumers.saved import SavedConsumers
from device.spool.consumers.saving import Saving
from stream.fsync import replace_file, sync_path
from stream.pair import NAME

CONSUMERS = "consumers.json"
"""Its name in the folder of a spool."""
MAX_FILE_BYTES = 16 << 20
_FORGET = ".forget"

log = logging.getLogger(__name__)


def load_consumers(path: Path) -> SavedConsumers:
    """Return the list in a file; an empty one if the file is damaged or missing."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is too large")
        saved = msgspec.json.decode(path.read_bytes(), type=SavedConsumers)
        if saved.crc != _crc(saved) or not all(map(NAME.fullmatch, saved.consumers)):
            raise ValueError("its checksum differs")
    except FileNotFoundError:
        return SavedConsumers()
    except (ValueError, OSError, msgspec.MsgspecError, RecursionError) as error:
        text = "%s is damaged (%s): the list begins empty, and consumers are offered pairs again that they have"
        log.warning(text, path, error)
        return SavedConsumers()
    return saved


def save_consumers(path: Path, saved: SavedConsumers) -> None:
    """Replace the file. Raises OSError, and the old file then stays.

    The call is slow: hold no lock during it.
    """
    replace_file(path, msgspec.json.encode(msgspec.structs.replace(saved, crc=_crc(saved))))
    sync_path(path.parent)


class ConsumersFile:
    """Saves the list whenever the rules demand it, one save at a time. Any thread may call it.

    lock: guards the rules; it is not held while the disk is slow. clock: monotonic seconds. on_error: called with the path and
    the error when the disk refuses the list. The old file then stays: if the process is killed now, pairs are offered once more.
    """

    def __init__(
        self,
        path: Path,
        saving: Saving,
        *,
        lock: threading.Condition,
        clock: Callable[[], float],
        on_error: Callable[[Path, OSError], None],
    ) -> None:
        self._path, self._saving, self._lock, self._clock, self._on_error = path, saving, lock, clock, on_error
        self._one_at_a_time = threading.Lock()

    def save(self, *, at_end: bool = False) -> None:
        """Save the list if it is due. at_end: save it anyway, because the process ends."""
        with self._one_at_a_time:
            with self._lock:
                saved = self._saving.begin(self._clock(), at_end=at_end)
            if saved is None:
                return
            try:
                save_consumers(self._path, saved)
            except OSError as error:
                self._on_error(self._path, error)
                record = self._saving.failed
            else:
                record = self._saving.done
            with self._lock:
                record(self._clock())


def request_to_forget(folder: Path, name: str) -> Path:
    """Ask the rig that has the spool in this folder, now or when it starts, to forget a consumer; return the request's file."""
    path = folder / f"{name}{_FORGET}"
    replace_file(path, b"")
    return path


def take_requests(folder: Path) -> list[str]:
    """Return the names of the consumers that are to be forgotten, and remove the requests."""
    names = []
    with suppress(OSError):
        for path in folder.glob(f"[!.]*{_FORGET}"):  # a dot in front: the request is still being written
            path.unlink(missing_ok=True)
            names.append(path.name.removesuffix(_FORGET))
    return names


def _crc(saved: SavedConsumers) -> int:
    epochs = (saved.epochs,) if saved.epochs else ()  # files of earlier versions have none
    return zlib.crc32(msgspec.json.encode((saved.complete, saved.consumers, *epochs)))
