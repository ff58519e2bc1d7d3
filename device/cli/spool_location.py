"""Where the spool lies: the meaning of `--spool auto|none|FOLDER`."""

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
    location: str,
    *,
    device: str,
    lasting: bool,
    max_gib: float | None,
    free_floor_gib: float,
    on_sync: Callable[[float], None],
    environ: Mapping[str, str] = os.environ,
) -> Iterator[Spool | None]:
    """Open the spool and close it afterwards; None for the location "none".

    location: "auto", "none" or a folder. "auto" is the system's folder for the state of programs if the spool must be `lasting`,
    and otherwise a temporary folder, which is deleted at the end. Raises SpoolError.
    max_gib: 8 by default, 2 in a temporary folder.
    """
    if location == "none":
        yield None
        return
    folder, temporary = _find_folder(location, device, lasting, environ)
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
                    "%d pairs that no learner has made durable are deleted with the temporary spool; --spool FOLDER keeps them",
                    backlog,
                )
    finally:
        if temporary:
            shutil.rmtree(folder, ignore_errors=True)


def parent_of(location: str, device: str, lasting: bool, environ: Mapping[str, str]) -> tuple[Path, bool]:
    """A folder on the disk of the spool, and whether the spool would outlast the process; nothing is made."""
    if location == "auto" and not lasting:
        return Path(environ.get("TMPDIR") or "/var/tmp"), False
    return _find_folder(location, device, lasting, environ)[0], True


def _find_folder(location: str, device: str, lasting: bool, environ: Mapping[str, str]) -> tuple[Path, bool]:
    """The folder, and whether it is temporary."""
    if location != "auto":
        return Path(location), False
    return (_state(environ, device), False) if lasting else (_temporary(environ), True)


def _state(environ: Mapping[str, str], device: str) -> Path:
    """The folder for state that systemd gives, or that of the XDG base directories."""
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    base = Path(environ.get("XDG_STATE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".local" / "state") / "babyagent" / device
    except RuntimeError as error:
        raise SpoolError(f"no folder for the spool: {error}; choose one with --spool, none: live only") from error


def _temporary(environ: Mapping[str, str]) -> Path:
    """Make a new folder on a disk (/tmp may be in memory), after deleting those that killed processes left."""
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
    """Whether a folder is this user's own and not a link: every user may write into its parent."""
    with suppress(OSError):
        found = folder.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return False
