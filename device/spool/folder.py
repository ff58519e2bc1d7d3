"""The folder of a spool: one process has it at a time, it belongs to one device, and what lies in it is found again.

    device.lock       locked while a process has the spool; holds the name of the device
    consumers.json    see `device.spool.consumers`
    *.sqlite          see `device.spool.segment`; with -wal and -journal beside the unsealed ones
    *.head            see `device.spool.epoch_end`

Anything else is left alone.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import sqlite3
from itertools import pairwise
from pathlib import Path

from device.spool.checked_line import from_line, to_line
from device.spool.epoch_end import PastHead, find_heads
from device.spool.segment import Segment, is_full
from stream.errors import ReportedError

DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_LOCK = "device.lock"
_MAX_LOCK_BYTES = 128
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

log = logging.getLogger(__name__)


class SpoolError(ReportedError):
    """A folder that cannot be a spool; the message says what to do."""


class SpoolTaken(SpoolError):
    """A spool that another process has, or that has no room now: the same settings may work later."""

    exit_code = 1


def take(folder: Path, device: str) -> int:
    """Make the folder and lock it for this process; returns the descriptor whose closing gives it back.

    Raises SpoolError where it cannot be written, another process has it, or it holds another device's pairs.
    """
    descriptor = -1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _check_owner(descriptor, folder, device)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SpoolTaken(
            f"another process has the spool {folder}: stop it, or give this one a --name or --spool of its own"
        ) from error
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise (SpoolTaken if error.errno in _NO_ROOM else SpoolError)(
            f"cannot keep pairs in {folder}: {error.strerror}; choose a folder with --spool, none: live only"
        ) from error
    except SpoolError:
        os.close(descriptor)
        raise
    return descriptor


def is_abandoned(folder: Path) -> bool:
    """Whether a process had a spool there and has it no more; not where it is only being made."""
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


def find(folder: Path) -> tuple[list[Segment], dict[str, PastHead]]:
    """The segments in a folder, in the order they were written, and how far each epoch had come.

    Segments that were not sealed are opened.

    An empty one is deleted, and so are the leavings of a deleted one. Raises SpoolError for one that cannot be opened.
    """
    names = {path.name for path in folder.iterdir()}
    for name in names:
        database = re.sub(r"-(wal|journal|shm)\Z", "", name)
        if database not in names and Segment.found(folder / database) is not None:
            (folder / name).unlink()
    segments = sorted(
        (segment for name in names if (segment := Segment.found(folder / name)) is not None),
        key=lambda segment: (segment.run, segment.first),
    )
    unsealed = [segment for segment in segments if not segment.sealed]
    try:
        for segment in unsealed:
            _recover(segment)
    except SpoolError:
        for segment in unsealed:
            segment.close()
        raise
    for segment, following in pairwise(segments):
        if segment in unsealed and segment.epoch == following.epoch:
            _reach(segment, following.first)
    heads = _apply_heads(folder, {segment.epoch: segment for segment in segments})
    for segment in segments:
        if segment.empty:
            segment.drop()
            segment.close()
    return [segment for segment in segments if not segment.dropped], heads


def _apply_heads(folder: Path, newest: dict[str, Segment]) -> dict[str, PastHead]:
    """How far an epoch had come is told by its newest segment, or by the file beside it; returns what the files tell."""
    heads = find_heads(folder)
    for epoch, past in heads.items():
        if epoch in newest:
            _reach(newest[epoch], past.head)
        elif not past.head:
            past.delete()
    return {epoch: past for epoch, past in heads.items() if past.head or epoch in newest}


def _reach(segment: Segment, end: int) -> None:
    """Where pairs went on to be appended beyond what a segment tells, it was cut off, and they are rotten."""
    if segment.end < end:
        log.warning("%s is cut off: %d pairs are missing at its end", segment.path, end - segment.end)
        segment.end, segment.damaged = end, True


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
        if not is_full(error):
            raise
        log.warning("%s has no room for its owner's name: %s", folder, error.strerror)


def _recover(segment: Segment) -> None:
    try:
        segment.recover()
    except (sqlite3.Error, OSError) as error:
        raise SpoolError(
            f"cannot open {segment.path}: {error}; let this user read and write it, or move it away"
        ) from error
    if segment.damaged:
        log.warning("%s is damaged: what can be read of it is given", segment.path)
