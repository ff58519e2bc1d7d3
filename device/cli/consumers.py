"""`python -m device consumers`: for whom a spool keeps pairs, how far behind each of them is, and how to forget one."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from device.cli.capture_settings import host_name
from device.cli.spool_location import spools_of
from device.spool.consumers.file import CONSUMERS, load_consumers, request_to_forget
from device.spool.consumers.saved import SavedConsumer
from device.spool.epoch_end import find_epoch_ends
from device.spool.folder import SpoolError, is_abandoned
from device.spool.segment_file import segment_of
from stream.errors import reported_as
from stream.host.command import Command
from stream.host.printing import printable
from stream.host.program import Result, Stop

TAKEN_S = 8.0
"""A running rig takes a request every 5 s."""
DESCRIPTION = """List for whom the spools of this machine keep pairs: learners and recorders, by name, and how far behind each is.

  python -m device consumers                        the rig's own spool, and those of simulated rigs that run here
  python -m device consumers --forget NAME          keep no pairs for it any more: what only it was missing makes room
  python -m device consumers --spool FOLDER --json

A learner is called RUN-HOST-DIGITS, by its run directory and its machine (32 digits where an earlier version began the run), a
recorder record-FILE-DIGITS. One that is still connected comes back to the list at once, without the pairs that are gone. How long
it is silent and known is counted while the rig runs, to about ten minutes; after a week of silence it is forgotten.
Exit codes: 0 done, 1 the rig did not take the request, 2 wrong settings."""


@dataclass(frozen=True, kw_only=True)
class ConsumersSettings:
    """List the consumers of a spool, or forget some."""

    name: str | None = None
    """Name of the device whose spool is meant; the host's name by default."""
    spool: Path | None = None
    """Folder of the spool, as the rig was given it."""
    forget: tuple[str, ...] = ()
    """Consumers to forget."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A consumer.

    behind: pairs in the spool that it has not acknowledged. known_s: for how long pairs are kept for it, while the rig ran; None
    if an earlier version has not noted it. owner: the name of its key, if there are keys.
    """

    name: str
    behind: int
    silent_s: float
    known_s: float | None
    owner: str | None
    spool: str


def run(settings: ConsumersSettings, stop: Stop) -> Result:
    """List or forget consumers. Raises SpoolError where there is no spool, or no such consumer."""
    device = settings.name or host_name()
    folders = spools_of(device, settings.spool, os.environ)
    if not any(folder.is_dir() for folder in folders):
        where = settings.spool or f"a rig named {device}"
        raise SpoolError(
            f"there is no spool of {where} here: give the rig's --name, or --spool FOLDER, as it prints them when it starts"
        )
    listed = [one for folder in folders for one in consumers_of(folder)]
    if settings.forget:
        return _forget(settings.forget, listed, stop)
    lines = [describe(one) for one in listed]
    return Result("\n".join(lines) or "no pairs are kept for anybody yet", [asdict(one) for one in listed])


def consumers_of(folder: Path) -> list[Listed]:
    """Return the consumers of the spool in a folder, those that are behind most first. Raises SpoolError."""
    with reported_as(SpoolError, f"{folder} cannot be read"):
        saved = load_consumers(folder / CONSUMERS).consumers
        ends = {epoch: one.end for epoch, one in find_epoch_ends(folder).items()}
        tails: dict[str, int] = {}
        for path in folder.iterdir():
            if (segment := segment_of(path)) is not None:
                tails[segment.epoch] = min(segment.first, tails.get(segment.epoch, segment.first))
                ends[segment.epoch] = max(segment.end, ends.get(segment.epoch, 0))
    listed = [
        Listed(name, _behind(one, tails, ends), round(one.silent_s, 1), one.known_s, one.owner, str(folder))
        for name, one in saved.items()
    ]
    return sorted(listed, key=lambda one: -one.behind)


def _behind(consumer: SavedConsumer, tails: dict[str, int], ends: dict[str, int]) -> int:
    return sum(max(0, ends[epoch] - max(tail, consumer.upto.get(epoch, 0))) for epoch, tail in tails.items())


def describe(one: Listed) -> str:
    """Return one line for a person."""
    silent = f"silent for {one.silent_s / 3600:.1f} h" if one.silent_s >= 600 else "heard within ten minutes"
    known = "" if one.known_s is None else f", known for {one.known_s / 3600:.1f} h"
    owner = f", key of {one.owner}" if one.owner else ""
    return printable(f"{one.name}  {one.behind} pairs behind, {silent}{known}{owner}  ({one.spool})")


def _forget(names: tuple[str, ...], listed: list[Listed], stop: Stop) -> Result:
    known = {one.name for one in listed}
    for name in names:
        if name not in known:
            raise SpoolError(f"no pairs are kept for {name}: there are {', '.join(sorted(known)) or 'none'}")
    lines = []
    for one in listed:
        if one.name in names:
            path = request_to_forget(Path(one.spool), one.name)
            if is_abandoned(Path(one.spool)):
                lines.append(f"{one.name} is forgotten when the rig starts again")
            elif _taken(path, stop):
                lines.append(f"{one.name} is forgotten")
            else:
                path.unlink(missing_ok=True)
                raise OSError(
                    f"the rig at {one.spool} did not take the request to forget {one.name}: does it run well?"
                )
    return Result("\n".join(lines), {"forgotten": list(names)})


def _taken(path: Path, stop: Stop) -> bool:
    until_s = time.monotonic() + TAKEN_S
    while path.exists() and time.monotonic() < until_s and not stop.is_set():
        stop.sleep(0.05)
    return not path.exists()


COMMAND = Command(run=run, settings=ConsumersSettings, description=DESCRIPTION)
