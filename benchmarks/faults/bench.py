"""Is a pair ever lost without a word, or learned twice? Real rigs and learners, and faults as many as you like.

Rigs with the real spool and publisher, learners with the real subscriber and store, each a process, links of loopback TCP
between them. A nemesis kills, stalls, cuts and damages by a seed; then everything is healed, and a checker compares what
the rigs say they kept with what the learners committed. Exit code 1 where a pair was lost or entered twice; then all
that it takes to find out why stays in a folder.
"""

from __future__ import annotations

import heapq
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.faults.check import Journal
from benchmarks.faults.figures import judge
from benchmarks.faults.nemesis import HARMLESS, KINDS, Fault, plan
from benchmarks.faults.stage import Stage, StageError, Struck

SPOOL_MIB = 64.0
PROGRESS_S = 5.0
GROUPS = {"all": tuple(KINDS), "harmless": HARMLESS}


@dataclass(frozen=True, kw_only=True)
class FaultsSettings:
    """Kill, stall, cut and damage real rigs and learners, and count every pair."""

    pairs: int = 20_000
    """Pairs to be kept at least, by all rigs together."""
    faults: int = 100
    seed: int | None = None
    """Of the faults; drawn, and said, where none is given."""
    kinds: tuple[str, ...] = ("all",)
    """Of faults: names, `all`, or `harmless`: those that can cost no pair."""
    devices: int = 2
    learners: int = 1
    pairs_per_s: float = 200.0
    """Of each rig."""
    every_s: float = 0.4
    """From one fault to the next, in the mean."""
    hold_s: float = 3.0
    """Longest time until a fault is undone, but for a few long ones."""
    long: bool = True
    """A few cuts, freezes and stalls last 8 s, which is longer than the heartbeats wait."""
    spool_mib: float = SPOOL_MIB
    """Of each rig; with less than a few the longer cuts evict."""
    folder: Path | None = None
    """Where everything lies while it runs; the system's temporary folder by default."""
    json: bool = False
    """One JSON object instead of the table."""


def main(arguments: Sequence[str]) -> int:
    """Run the faults; returns 0 where everything is accounted for, else 1."""
    settings = tyro.cli(FaultsSettings, args=list(arguments), prog="python -m benchmarks faults")
    _check(settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was mounted is unmounted then too
    seed = random.SystemRandom().getrandbits(31) if settings.seed is None else settings.seed
    _say(f"seed {seed}: {settings.faults} faults while {settings.pairs} pairs are kept")
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=settings.folder))
    figures: dict[str, Any] = {}
    try:
        figures = _run(settings, seed, folder)
    except StageError as error:
        _say(f"error: {error}")
    finally:
        if figures.get("failures") == []:
            shutil.rmtree(folder)
        else:
            _say(f"journals, stores and spools are kept in {folder}")
    if figures:
        _show(figures, settings)
    return 0 if figures.get("failures") == [] else 1


def _check(settings: FaultsSettings) -> None:
    if not settings.kinds or not set(settings.kinds) <= {*GROUPS, *KINDS}:
        known = ", ".join((*GROUPS, *KINDS))
        raise ValueError(f"--kinds must be some of {known}; got {', '.join(settings.kinds) or 'none'}")
    if min(settings.pairs, settings.devices, settings.learners) < 1 or settings.faults < 0:
        raise ValueError("--pairs, --devices and --learners must be at least 1, --faults at least 0")
    if min(settings.pairs_per_s, settings.every_s, settings.hold_s) <= 0 or settings.spool_mib < 0.25:
        raise ValueError("--pairs-per-s, --every-s and --hold-s must be above 0, --spool-mib at least 0.25")


def _run(settings: FaultsSettings, seed: int, folder: Path) -> dict[str, Any]:
    """The figures; those of the failures are named in `failures`."""
    faults = plan(
        seed,
        settings.faults,
        [kind for word in settings.kinds for kind in GROUPS.get(word, (word,))],
        rigs=settings.devices,
        learners=settings.learners,
        every_s=settings.every_s,
        hold_s=settings.hold_s,
        long=settings.long,
    )
    started_s = time.monotonic()
    stage = Stage(
        folder,
        rigs=settings.devices,
        learners=settings.learners,
        spool_bytes=int(settings.spool_mib * (1 << 20)),
        pairs_per_s=settings.pairs_per_s,
    )
    good = False
    try:
        stage.start()
        _perform(stage, faults, settings.pairs)
        _say(f"all {len(faults)} faults are done, {stage.kept} pairs kept: what is missing is pulled")
        stage.settle()
        ended_well = stage.end()
        figures = judge(stage, ended_well=ended_well, evicts=settings.spool_mib < SPOOL_MIB)
        figures |= {"seed": seed, "seconds": round(time.monotonic() - started_s, 1)}
        good = not figures["failures"]
        if not good:
            _keep(stage, figures)
    finally:
        stage.close(keep=not good)
    return figures


def _perform(stage: Stage, faults: Sequence[Fault], pairs: int) -> None:
    """Do and undo every fault at its time, and go on until enough pairs are kept."""
    began_s = time.monotonic()
    numbers = count()
    due: list[tuple[float, int, Fault | Struck]] = [(fault.at_s, next(numbers), fault) for fault in faults]
    said_s, done = began_s, 0
    while due or stage.kept < pairs:
        now_s = time.monotonic()
        while due and due[0][0] <= now_s - began_s:
            _, _, what = heapq.heappop(due)
            if isinstance(what, Struck):
                stage.relieve(what)
            else:
                struck = stage.strike(what)
                done += 1
                heapq.heappush(due, (time.monotonic() - began_s + what.hold_s, next(numbers), struck))
        if now_s - said_s >= PROGRESS_S:
            said_s = now_s
            _say(f"{now_s - began_s:.0f} s: {done} of {len(faults)} faults, {stage.kept} of {pairs} pairs kept")
        stage.attend()


def _keep(stage: Stage, figures: dict[str, Any]) -> None:
    """What it takes to find out why, beside stores, spools and logs."""
    for rig in stage.rigs:
        journal = rig.journal
        lines = (
            f"{epoch} {seq} {attempt.crc} {attempt.at_ns} {_fate(journal, (epoch, seq))}\n"
            for (epoch, seq), attempt in journal.attempts.items()
        )
        (stage.folder / f"{rig.device}.journal").write_text("".join(lines))
    struck = "".join(f"{struck}\n" for struck in stage.struck)
    (stage.folder / "faults.txt").write_text(struck)
    (stage.folder / "figures.json").write_text(json.dumps(figures, indent=1))


def _fate(journal: Journal, name: tuple[str, int]) -> str:
    if name in journal.kept:
        return "kept"
    return "refused" if name in journal.refused else "indeterminate"


def _show(figures: dict[str, Any], settings: FaultsSettings) -> None:
    if settings.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    table = Table("what", "how much", title=f"seed {figures['seed']}")
    for name, value in figures.items():
        shown = ", ".join(f"{key}: {number}" for key, number in value.items()) if isinstance(value, dict) else value
        table.add_row(name, str(shown))
    Console().print(table)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
