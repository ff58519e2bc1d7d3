"""The folder of a spool. One process uses it at a time, and it belongs to one device.

    device.lock       locked while a process uses the spool; holds the name of the device
    consumers.json    see `device.spool.consumers_file`
    *.sqlite          see `device.spool.segment_file`; with -wal and -journal beside the unsealed ones
    *.head            see `device.spool.epoch_end`

All other files are left alone.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

from device.spool.checked_line import from_line, to_line
from device.spool.epoch_end import EpochEndFile, find_epoch_ends
from device.spool.segment import Removal, Segment, State
from device.spool.segment_file import SegmentFile, is_disk_full, segment_of
from stream.errors import ReportedError

_LOCK = "device.lock"
_MAX_LOCK_BYTES = 128

log = logging.getLogger(__name__)


class SpoolError(ReportedError):
    """A folder cannot be used as a spool; the message says what to do."""


class SpoolTaken(SpoolError):
    """Another process uses the spool, or there is no room now; the same settings may work later."""

    exit_code = 1


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
        self.earlier_ends: dict[str, int] = {}
        """Number of the last pair, plus one, of each earlier epoch that has a file for it, oldest first."""
        self._end_paths: dict[str, Path] = {}
        self._end_file: EpochEndFile | None = None
        self._lock = _lock(path, device)
        try:
            runs = self._find()
        except BaseException:
            self.close()
            raise
        self.run = 1 + max(runs, default=0)

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

    def remove(self, removal: Removal) -> None:
        """Delete files. The connections of deleted segments stay open, and are collected in `to_close`."""
        for segment in removal.segments:
            file = self.files.pop(segment)
            file.delete()
            self.to_close.append(file)
        for epoch in removal.epochs:
            if epoch in self._end_paths:
                _delete(self._end_paths.pop(epoch))

    def close(self) -> None:
        """Close all files and unlock the folder."""
        for file in (*self.files.values(), *self.to_close):
            file.close()
        if self._end_file is not None:
            self._end_file.close()
        os.close(self._lock)

    def _find(self) -> list[int]:
        """Open the segments of earlier processes, recover those that were not sealed, and delete empty ones.

        Returns the run numbers of all files that were found. (Each process that writes to the spool has a run number, from 1.)
        """
        names = {path.name for path in self.path.iterdir()}
        for name in names:
            database = re.sub(r"-(wal|journal|shm)\Z", "", name)
            if database not in names and segment_of(self.path / database) is not None:
                (self.path / name).unlink()
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
            elif not found.end:
                _delete(found.path)
                continue
            self.earlier_ends[epoch], self._end_paths[epoch] = found.end, found.path
        return [found.run for epoch, found in ends.items() if epoch in self.earlier_ends]

    def _extend(self, segment: Segment, end: int) -> None:
        """Set the end of a segment to `end`, which is known from elsewhere, if its file ends earlier because it was cut off."""
        if missing := segment.extend(end):
            log.warning("%s is cut off: %d pairs are missing at its end", self.files[segment].path, missing)


def is_abandoned(folder: Path) -> bool:
    """Return whether a folder holds a spool whose process has ended; False while a process is still making it."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_size > 0
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _lock(folder: Path, device: str) -> int:
    """Make the folder and lock it for this process; return the file descriptor that unlocks it when it is closed."""
    with ExitStack() as on_error:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            on_error.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _check_owner(descriptor, folder, device)
        except BlockingIOError as error:
            raise SpoolTaken(
                f"another process has the spool {folder}: stop it, or give this one a --name or --spool of its own"
            ) from error
        except OSError as error:
            raise (SpoolTaken if is_disk_full(error) else SpoolError)(
                f"cannot keep pairs in {folder}: {error.strerror}; choose a folder with --spool, none: live only"
            ) from error
        on_error.pop_all()
        return descriptor


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
        text = f"cannot open {file.path}: {error}; let this user read and write it, or move it away"
        raise SpoolError(text) from error
    if segment.damaged:
        log.warning("%s is damaged: its readable pairs are given", file.path)


def _delete(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
