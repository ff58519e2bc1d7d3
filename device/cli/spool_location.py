"""Where the spool lies: the meaning of `--spool auto|none|FOLDER`."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from device.cli.settings import StreamSettings
from device.spool.folder import SpoolError, cannot_keep, is_abandoned
from device.spool.rules import SpoolLimits
from device.spool.spool import Spool
from stream.host.findings import GIB
from stream.host.home import expanded

log = logging.getLogger(__name__)

LASTING_GIB = 8.0
TEMPORARY_GIB = 2.0
_PREFIX = "babyagent-spool-"


@contextmanager
def open_spool(
    settings: StreamSettings,
    *,
    on_sync: Callable[[float], None],
    trusted: Collection[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[Spool | None]:
    """Open the spool of a rig and close it afterwards; None if the settings want none. Raises SpoolError.

    A temporary spool is deleted at the end. on_sync, trusted: see `Spool`.
    """
    if settings.spool == "none":
        yield None
        return
    temporary = is_temporary(settings)
    folder = _make_temporary(environ) if temporary else _lasting(settings, environ)
    limits = SpoolLimits(spool_bytes(settings), int(settings.disk_floor_gib * GIB))
    try:
        with Spool(folder, limits, device=settings.device, on_sync=on_sync, trusted=trusted) as spool:
            yield spool
            if temporary and (backlog := spool.stats().backlog):
                text = "%d pairs that no learner has made durable are deleted with the temporary spool"
                log.warning(f"{text}; --spool FOLDER keeps them", backlog)
    finally:
        if temporary:
            shutil.rmtree(folder, ignore_errors=True)


def spools_of(device: str, spool: Path | None, environ: Mapping[str, str]) -> list[Path]:
    """Return the folders of spools on this machine: the given one, or the device's and the temporary ones. Raises SpoolError."""
    if spool is not None:
        return [spool]
    temporary = [path for path in sorted(_temporary_parent(environ).glob(f"{_PREFIX}*")) if _is_ours(path)]
    return [path for path in (_lasting(StreamSettings(name=device), environ), *temporary) if path.is_dir()]


def is_temporary(settings: StreamSettings) -> bool:
    """Return whether the spool is deleted at the end of the process."""
    return settings.spool == "auto" and not settings.lasting


def spool_bytes(settings: StreamSettings) -> int:
    """Return the number of bytes that the spool may take."""
    return int((settings.spool_gib or (TEMPORARY_GIB if is_temporary(settings) else LASTING_GIB)) * GIB)


def parent_of(settings: StreamSettings, environ: Mapping[str, str]) -> Path:
    """Return a folder on the disk of the spool. It may not exist; no folder is made. Raises SpoolError."""
    return _temporary_parent(environ) if is_temporary(settings) else _lasting(settings, environ)


def _lasting(settings: StreamSettings, environ: Mapping[str, str]) -> Path:
    """Return the folder of a spool that stays: the named one, or systemd's folder for state, or that of the XDG standard."""
    if settings.spool != "auto":
        return expanded(Path(settings.spool))
    if given := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(given)
    base = Path(environ.get("XDG_STATE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".local" / "state") / "babyagent" / settings.device
    except RuntimeError as error:
        raise SpoolError(f"no folder for the spool: {error}; choose one with --spool, none: live only") from error


def _temporary_parent(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("TMPDIR") or "/var/tmp")  # /tmp may be in memory


def _make_temporary(environ: Mapping[str, str]) -> Path:
    """Make a new folder, after deleting the folders that killed processes have left."""
    parent = _temporary_parent(environ)
    try:
        for folder in parent.glob(f"{_PREFIX}*"):
            if _is_ours(folder) and is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError as error:
        text = f"no temporary spool in {parent}: {error.strerror}; set TMPDIR, or choose with --spool, none: live only"
        raise cannot_keep(error, text) from error


def _is_ours(folder: Path) -> bool:
    """Return whether a folder is this user's own and not a link: every user may write into its parent."""
    with suppress(OSError):
        found = folder.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return False
