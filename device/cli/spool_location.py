"""From the words `--spool auto|none|FOLDER` to a spool, or none."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from device.spool.folder import SpoolError, is_abandoned
from device.spool.rules import SpoolLimits
from device.spool.spool import Spool

log = logging.getLogger(__name__)

GIB = 1 << 30
LASTING_GIB = 8.0
TEMPORARY_GIB = 2.0
_PREFIX = "babyagent-spool-"


@contextmanager
def open_spool(
    place: str,
    *,
    device: str,
    lasting: bool,
    max_gib: float | None,
    free_floor_gib: float,
    on_sync: Callable[[float], None],
    environ: Mapping[str, str] = os.environ,
) -> Iterator[Spool | None]:
    """The spool at a place, closed afterwards; None for "none".

    place: "auto": where the system keeps the state of programs if it is to be `lasting`, else a folder that goes with this
    process; "none"; or a folder. max_gib: 8 by default, 2 for a folder that goes. Raises SpoolError.
    """
    if place == "none":
        yield None
        return
    folder, temporary = _find_place(place, device, lasting, environ)
    if max_gib is None:
        max_gib = TEMPORARY_GIB if temporary else LASTING_GIB
    try:
        with Spool(
            folder,
            SpoolLimits(max_bytes=int(max_gib * GIB), free_floor_bytes=int(free_floor_gib * GIB)),
            device=device,
            on_sync=on_sync,
        ) as spool:
            yield spool
            if temporary and (backlog := spool.stats().backlog):
                log.warning(
                    "%d pairs that no learner has made durable go with the temporary spool; --spool FOLDER keeps them",
                    backlog,
                )
    finally:
        if temporary:
            shutil.rmtree(folder, ignore_errors=True)


def parent_of(place: str, device: str, lasting: bool, environ: Mapping[str, str]) -> tuple[Path, bool]:
    """A folder on whose disk the spool would be, and whether it would outlast the process; makes nothing."""
    if place == "auto" and not lasting:
        return Path(environ.get("TMPDIR") or "/var/tmp"), False
    return _find_place(place, device, lasting, environ)[0], True


def _find_place(place: str, device: str, lasting: bool, environ: Mapping[str, str]) -> tuple[Path, bool]:
    """The folder, and whether it goes with this process."""
    if place != "auto":
        return Path(place), False
    return (_state(environ, device), False) if lasting else (_temporary(environ), True)


def _state(environ: Mapping[str, str], device: str) -> Path:
    """Where systemd says, or the XDG base directories do."""
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    base = Path(environ.get("XDG_STATE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".local" / "state") / "babyagent" / device
    except RuntimeError as error:
        raise SpoolError(f"no folder for the spool: {error}; choose one with --spool, none: live only") from error


def _temporary(environ: Mapping[str, str]) -> Path:
    """A new folder on a disk (/tmp may be memory); those that killed processes left are deleted first."""
    parent = environ.get("TMPDIR") or "/var/tmp"
    try:
        for folder in Path(parent).glob(f"{_PREFIX}*"):
            if _is_ours(folder) and is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError as error:
        raise SpoolError(
            f"no temporary spool in {parent}: {error.strerror}; set TMPDIR, or choose with --spool, none: live only"
        ) from error


def _is_ours(folder: Path) -> bool:
    """Not a link, and not another user's, in a folder where everybody may write."""
    with suppress(OSError):
        found = folder.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return False
