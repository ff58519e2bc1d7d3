"""Is a pair ever lost without being counted, or learned twice? It runs real rigs and learners under random faults.

Rigs with the real spool and publisher, learners with the real subscriber and store, each a process, with links of loopback TCP
between them. A nemesis kills, stalls, cuts and damages them, at times that a seed decides. Then everything is repaired, and a
checker compares the pairs that the rigs reported as kept with those that the learners committed. The exit code is 1 if a pair was
lost or entered twice; everything needed to find the reason then stays in a folder.
"""

from __future__ import annotations

import heapq
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table

from benchmarks.faults.figures import judge
from benchmarks.faults.nemesis import HARMLESS, KINDS, Fault, plan
from benchmarks.faults.rig import RigLoad
from benchmarks.faults.stage import Stage, Struck
from benchmarks.shared.bench import Bench, BenchSettings, Goal, name_value_table, report_progress
from benchmarks.shared.bounds import Count, Positive, SomeOf, Within

SPOOL_MIB = 64.0
PROGRESS_S = 5.0
GROUPS = {"all": tuple(KINDS), "harmless": HARMLESS}


@dataclass(frozen=True, kw_only=True)
class FaultsSettings(BenchSettings):
    """Kill, stall, cut and damage real rigs and learners, and check that every pair is counted."""

    pairs: Count = 20_000
    """Least number of pairs that all rigs together keep."""
    faults: Annotated[int, Within(0)] = 100
    """Number of faults."""
    seed: int | None = None
    """Seed of the faults; without it a random one is drawn and reported."""
    kinds: Annotated[tuple[str, ...], SomeOf((*GROUPS, *KINDS))] = ("all",)
    """Kinds of faults: names, `all`, or `harmless` for the kinds that cannot cost a pair."""
    devices: Count = 2
    """Number of rigs."""
    learners: Count = 1
    """Number of learners."""
    pairs_per_s: Positive = 200.0
    """Pairs per second of each rig."""
    every_s: Positive = 0.4
    """Mean time from one fault to the next."""
    hold_s: Positive = 3.0
    """Longest time until a fault is undone, except for a few long faults."""
    long: bool = True
    """Whether a few cuts, freezes and stalls last 8 s, longer than the timeout of a connection."""
    spool_mib: Annotated[float, Within(0.25)] = SPOOL_MIB
    """Size of each rig's spool, MiB; if it is very small, longer cuts make it evict pairs."""
    folder: Path | None = None
    """Where all files are written during the run; the system's temporary folder by default."""

    def plan(self, seed: int) -> list[Fault]:
        """Return the faults of a run with this seed."""
        return plan(
            seed,
            self.faults,
            [kind for word in self.kinds for kind in GROUPS.get(word, (word,))],
            rigs=self.devices,
            learners=self.learners,
            every_s=self.every_s,
            hold_s=self.hold_s,
            long=self.long,
        )


def measure(settings: FaultsSettings) -> dict[str, Any]:
    """Run the faults and return the figures. If they name failures, the files are kept."""
    seed = random.SystemRandom().getrandbits(31) if settings.seed is None else settings.seed
    report_progress(f"seed {seed}: {settings.faults} faults while {settings.pairs} pairs are kept")
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=settings.folder))
    faults, started_s = settings.plan(seed), time.monotonic()
    load = RigLoad(int(settings.spool_mib * (1 << 20)), settings.pairs_per_s)
    stage = Stage(folder, load, rigs=settings.devices, learners=settings.learners)
    good = False
    try:
        stage.start()
        _perform(stage, faults, settings.pairs)
        report_progress(f"all {len(faults)} faults are done, {stage.kept} pairs kept: missing pairs are pulled")
        stage.settle()
        ended_well = stage.end()
        figures = judge(stage, ended_well=ended_well, evicts=settings.spool_mib < SPOOL_MIB)
        figures |= {"seed": seed, "seconds": round(time.monotonic() - started_s, 1)}
        good = not figures["failures"]
        if not good:
            _keep_evidence(stage, figures)
    finally:
        stage.close(keep=not good)
        if good:
            shutil.rmtree(folder)
        else:
            report_progress(f"journals, stores and spools are kept in {folder}")
    return figures


def render(_settings: FaultsSettings, figures: dict[str, Any]) -> list[Table]:
    """Return one table of the figures."""
    return [name_value_table(f"seed {figures['seed']}", figures)]


def goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """Yield the goal: there are no failures."""
    yield Goal("failures", len(figures["failures"]), 0)


COMMAND = Bench(FaultsSettings, measure, render, goals)


def _perform(stage: Stage, faults: Sequence[Fault], pairs: int) -> None:
    """Start and undo every fault at its time, and continue until enough pairs are kept."""
    began_s = time.monotonic()
    numbers = count()
    due: list[tuple[float, int, Fault | Struck]] = [(fault.at_s, next(numbers), fault) for fault in faults]
    reported_s, done = began_s, 0
    while due or stage.kept < pairs:
        now_s = time.monotonic()
        while due and due[0][0] <= now_s - began_s:
            _, _, event = heapq.heappop(due)
            if isinstance(event, Struck):
                stage.relieve(event)
            else:
                struck = stage.strike(event)
                done += 1
                heapq.heappush(due, (time.monotonic() - began_s + event.hold_s, next(numbers), struck))
        if now_s - reported_s >= PROGRESS_S:
            reported_s = now_s
            report_progress(f"{done} of {len(faults)} faults, {stage.kept} of {pairs} pairs kept")
        stage.attend()


def _keep_evidence(stage: Stage, figures: dict[str, Any]) -> None:
    """Write journals, faults and figures into the folder that holds stores, spools and logs."""
    for rig in stage.rigs:
        (stage.folder / f"{rig.device}.journal").write_text("".join(f"{line}\n" for line in rig.journal.lines()))
    (stage.folder / "faults.txt").write_text("".join(f"{struck}\n" for struck in stage.struck))
    (stage.folder / "figures.json").write_text(json.dumps(figures, indent=1))
