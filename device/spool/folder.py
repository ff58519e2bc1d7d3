"""The folder of a spool. One process uses it at a time, and it belongs to one device.

    device.lock       holds the name of the device; locked, as the folder itself, while a process uses the spool
    consumers.json    see `device.spool.consumers.file`
    *.sqlite          see `device.spool.segment_file`; with -wal and -journal beside the unsealed ones
    *.forget          requests to forget a consumer, see `device.spool.consumers.file`
    *.head            see `device.spool.epoch_end`

All other files are left alone.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from itertools import pairwise
from pathlib import Path

from device.spool.checked_line import from_line, to_line
from device.spool.epoch_end import EpochEndFile, find_epoch_ends
from device.spool.inventory import EarlierEpoch, Inventory, joined
from device.spool.segment import Removal, Segment, State
from device.spool.segment_file import SegmentFile, is_disk_full, segment_of
from stream.errors import ReportedError
from stream.fsync import sync_path

_LOCK = "device.lock"
_MAX_LOCK_BYTES = 128
_WRONG_PLACE = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EINVAL,
    }
)
"""Errors that stay until somebody chooses another folder or its rights. All others may pass: a full card, a file system that is
mounted again read-only, too many open files."""
_NO_FOLDER_LOCKS = frozenset({errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP})
"""What network file systems say that lock files, but no folders."""

log = logging.getLogger(__name__)


class SpoolError(ReportedError):
    """A folder cannot be used as a spool; the message says what to do."""


class SpoolTaken(SpoolError):
    """Another process uses the spool, or its disk refuses now; the same settings may work later."""

    exit_code = 1


def cannot_keep(error: OSError, text: str) -> SpoolError:
    """Return the error to report if the disk refuses a spool: whether the settings are wrong, or it may work later."""
    return (SpoolError if error.errno in _WRONG_PLACE else SpoolTaken)(text)


class SpoolFolder:
    """The files of a spool: those of earlier processes are opened, and the folder is locked for this process. Not thread-safe.

    An empty segment is deleted, and so are the remaining files of a deleted one. epoch: that of this process.
    Raises SpoolError if the folder cannot be written, another process uses it, it holds another device's pairs, or a segment
    cannot be opened.
    """

    def __init__(self, path: Path, device: str, epoch: str) -> None:
        self.path, self._epoch = path, epoch
        self.files: dict[Segment, SegmentFile] = {}
        """The files of each segment; oldest first when the folder is opened."""
        self.to_close: list[SegmentFile] = []
        """Deleted files whose connections are still open: closing one may have to wait for a reader."""
        self.earlier: dict[str, EarlierEpoch] = {}
        """Each earlier epoch that has a file for its end, oldest first."""
        self._end_paths: dict[str, Path] = {}
        self._end_file: EpochEndFile | None = None
        self._locks = _lock(path, device)
        try:
            runs = self._find()
        except BaseException:
            self.close()
            raise
        self.run = 1 + max(runs, default=0)

    def take_inventory(self, saved: Mapping[str, EarlierEpoch]) -> Inventory:
        """Return the inventory of what was found. saved: the epochs without pairs, as `consumers.json` names them.

        If one of the two sources is damaged, the ends of these epochs are read from the other one, and the damaged one is written
        again from it.
        """
        earlier = joined(self.earlier, saved)
        self.run = max([self.run, *(1 + one.run for one in earlier.values())])
        inventory = Inventory(self._epoch, self.files, earlier, run=self.run)
        for epoch, one in inventory.emptied().items():
            if epoch not in self.earlier or self.earlier[epoch].end != one.end:
                self.keep_end(one.run, epoch, one.end)
        return inventory

    def create(self, segment: Segment) -> None:
        """Make the files of a new segment of this run; raises sqlite3.Error or OSError."""
        if self._end_file is None:
            self._end_file = EpochEndFile(self.path, run=self.run, epoch=self._epoch)
            self._end_paths[self._epoch] = self._end_file.path
        self.files[segment] = SegmentFile.create(self.path, segment)

    def write_end(self, end: int) -> None:
        """Write that every number of this epoch below `end` was appended or refused."""
        if self._end_file is not None:
            self._end_file.write(end)

    def keep_end(self, run: int, epoch: str, end: int) -> None:
        """Make the end of an epoch survive a power cut. If the disk refuses this, `consumers.json` alone has it."""
        with suppress(OSError):
            if epoch == self._epoch and self._end_file is not None:
                self._end_file.sync()
                return
            file = EpochEndFile(self.path, run=run, epoch=epoch)
            self._end_paths[epoch] = file.path
            with closing(file):
                file.write(end)
                file.sync()
            sync_path(self.path)

    def remove(self, removal: Removal) -> None:
        """Delete files. The connections of deleted segments stay open, and are collected in `to_close`."""
        for emptied in removal.emptied:
            self.keep_end(*emptied)
        for segment in removal.segments:
            file = self.files.pop(segment)
            file.delete()
            self.to_close.append(file)
        for epoch in removal.forgotten:
            if epoch in self._end_paths:
                _delete(self._end_paths.pop(epoch))

    def close(self) -> None:
        """Close all files and unlock the folder."""
        for file in (*self.files.values(), *self.to_close):
            file.close()
        if self._end_file is not None:
            self._end_file.close()
        self._locks.close()

    def _find(self) -> list[int]:
        """Open the segments of earlier processes, recover those that were not sealed, and delete empty ones.

        Returns the run numbers of all files that were found. (Each process that writes to the spool has a run number, from 1.)
        """
        names = {path.name for path in self.path.iterdir()}
        for name in names:
            database = re.sub(r"-(wal|journal|shm)\Z", "", name)
            if database not in names and segment_of(self.path / database) is not None:
                _remove_remains(self.path / name, database)
        found = {path: segment for name in names if (segment := segment_of(path := self.path / name)) is not None}
        for path, segment in sorted(found.items(), key=lambda item: (item[1].run, item[1].first)):
            file = self.files[segment] = SegmentFile(path)
            segment.size = file.size()
        unsealed = [segment for segment in self.files if segment.state is State.FULL]
        for segment in unsealed:
            _recover(segment, self.files[segment])
        for segment, following in pairwise(self.files):
            if segment in unsealed and segment.epoch == following.epoch:
                self._extend(segment, following.first)
        runs = self._find_ends() + [segment.run for segment in self.files]
        for segment in [segment for segment in self.files if segment.empty]:
            file = self.files.pop(segment)
            file.delete()
            file.close()
        return runs

    def _find_ends(self) -> list[int]:
        """Apply the files that hold the ends of earlier epochs; return the run numbers of these files."""
        newest = {segment.epoch: segment for segment in self.files}
        ends = find_epoch_ends(self.path)
        for epoch, found in ends.items():
            if epoch in newest:
                self._extend(newest[epoch], found.end)
            self.earlier[epoch], self._end_paths[epoch] = EarlierEpoch(found.run, found.end), found.path
        return [found.run for found in ends.values()]

    def _extend(self, segment: Segment, end: int) -> None:
        """Set the end of a segment to `end`, which is known from elsewhere, if its file ends earlier because it was cut off."""
        if missing := segment.extend(end):
            log.warning("%s is cut off: %d pairs are missing at its end", self.files[segment].path, missing)


def is_abandoned(folder: Path) -> bool:
    """Return whether a folder holds a spool whose process has ended; False while a process is still making it."""
    with ExitStack() as stack, suppress(OSError):
        locked = [_open_locked(path, stack) for path in (folder, folder / _LOCK)]
        return os.fstat(locked[-1]).st_size > 0
    return False


def _open_locked(path: Path, stack: ExitStack, flags: int = 0) -> int:
    """Lock a file or a folder; return its descriptor, which unlocks it when the stack closes it. Raises OSError."""
    descriptor = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_CLOEXEC | flags, 0o644)
    stack.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _lock(folder: Path, device: str) -> ExitStack:
    """Make the folder and lock it for this process; return what unlocks it when it is closed.

    Processes of earlier versions lock the file alone. The lock of the folder also holds if somebody deletes that file.
    """
    with ExitStack() as on_error:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                _open_locked(folder, on_error)
            except OSError as error:
                if error.errno not in _NO_FOLDER_LOCKS:
                    raise
            _check_owner(_open_locked(folder / _LOCK, on_error, os.O_CREAT), folder, device)
        except BlockingIOError as error:
            raise SpoolTaken(
                f"another process has the spool {folder}: stop it, or give this one a --name or --spool of its own"
            ) from error
        except OSError as error:
            text = f"cannot keep pairs in {folder}: {error.strerror}; choose a folder with --spool, none: live only"
            raise cannot_keep(error, text) from error
        return on_error.pop_all()


def _check_owner(descriptor: int, folder: Path, device: str) -> None:
    owner = from_line(os.read(descriptor, _MAX_LOCK_BYTES))
    if owner == device:
        return
    if owner is not None:
        raise SpoolError(f"the spool {folder} holds pairs of {owner}: say --name {owner}, or choose another --spool")
    try:
        os.ftruncate(descriptor, 0)  # new, or damaged
        os.pwrite(descriptor, to_line(device), 0)
        os.fsync(descriptor)
    except OSError as error:
        if not is_disk_full(error):
            raise
        log.warning("%s has no room for its owner's name: %s", folder, error.strerror)


def _recover(segment: Segment, file: SegmentFile) -> None:
    try:
        file.recover(segment)
    except (sqlite3.Error, OSError) as error:
        text = f"cannot open {file.path}: {error}; let this user read and write it, or move it away with its -wal"
        allowed = os.access(file.path, os.R_OK | os.W_OK)
        raise (SpoolTaken if allowed else SpoolError)(text) from error
    if segment.damaged:
        log.warning("%s is damaged: its readable pairs are given", file.path)


def _remove_remains(path: Path, database: str) -> None:
    """Remove what a deletion that was interrupted has left beside a segment: it empties a log before it removes the segment."""
    if path.name.endswith("-shm") or not path.stat().st_size:
        path.unlink()
    else:
        log.warning(
            "%s holds pairs of a segment that is not there: put %s back beside it, or remove it too", path, database
        )


def _delete(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
