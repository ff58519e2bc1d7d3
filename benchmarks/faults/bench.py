"""Is a pair ever lost without being counted, or learned twice? It runs real rigs and consumers under random faults.

Rigs with the real spool and publisher; as consumers `python -m learner`, `python -m stream record`, and a learner that only lists
its pairs; each a process, with links of loopback TCP between them. A nemesis kills, stalls, cuts and damages them, sets clocks,
restores backups and sends strangers, at times that a seed decides. Then everything is repaired, and a checker compares the pairs
that the rigs reported as kept with those that each consumer made durable. A learner may refuse to start on damaged files, in one
line and without touching anything: the files are then repaired. The exit code is 1 if a pair was lost or entered twice;
everything needed to find the reason then stays in a folder.
"""

from __future__ import annotations

import heapq
import json
import logging
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table

from benchmarks.faults.figures import judge
from benchmarks.faults.nemesis import HARMLESS, KINDS, Fault, Hits, plan
from benchmarks.faults.rig import GRACE_S, RigLoad
from benchmarks.faults.stage import Stage, Struck
from benchmarks.shared.bench import Bench, BenchSettings, Goal, figure_table, name_value_table, report_progress
from benchmarks.shared.bounds import Count, Positive, SomeOf, Within
from benchmarks.simulation.faults import FaultyWorld, simulate
from learner.errors import SettingsError

SPOOL_MIB = 64.0
PROGRESS_S = 5.0
GROUPS = {"all": tuple(KINDS), "harmless": HARMLESS}


@dataclass(frozen=True, kw_only=True)
class FaultsSettings(BenchSettings):
    """Kill, stall, cut, damage and restore real rigs and consumers, and check that every pair is counted."""

    pairs: Count = 20_000
    """Least number of pairs that all rigs together keep."""
    faults: Annotated[int, Within(0)] = 100
    """Number of faults."""
    simulated: Annotated[int, Within(0)] = 0
    """Instead of all that: this number of simulated faults of the rules alone, without processes, files and clocks."""
    seed: int | None = None
    """Seed of the faults; without it a random one is drawn and reported."""
    kinds: Annotated[tuple[str, ...], SomeOf((*GROUPS, *KINDS))] = ("all",)
    """Kinds of faults: names, `all`, or `harmless` for the kinds that cannot cost a pair."""
    devices: Count = 2
    """Number of rigs."""
    learners: Annotated[int, Within(0)] = 1
    """Number of consumers that only list pairs; they are fast."""
    runs: Annotated[int, Within(0)] = 1
    """Number of real learners, each with a run directory."""
    recorders: Annotated[int, Within(0)] = 1
    """Number of real recorders."""
    pairs_per_s: Positive = 25.0
    """Pairs per second of each rig; without real learners 200 are possible."""
    every_s: Positive = 0.8
    """Mean time from one fault to the next."""
    hold_s: Positive = 3.0
    """Longest time until a fault is undone, except for a few long faults."""
    long: bool = True
    """Whether a few cuts, freezes and stalls last 8 s, longer than the timeout of a connection."""
    spool_mib: Annotated[float, Within(0.25)] = SPOOL_MIB
    """Size of each rig's spool, MiB; if it is very small, longer cuts make it evict pairs."""
    grace_s: Annotated[float, Within(0)] = GRACE_S
    """Seconds in which a rig that has lost its list of consumers frees nothing."""
    folder: Path | None = None
    """Where all files are written during the run; the system's temporary folder by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.consumers:
            raise SettingsError("--learners, --runs and --recorders are all 0: there must be a consumer")
        kinds = {kind for word in self.kinds for kind in GROUPS.get(word, (word,))}
        if not self.runs and all(KINDS[kind].hits is Hits.LEARNER for kind in kinds):
            raise SettingsError("--kinds has only faults of real learners: add --runs 1 or other kinds")
        if self.simulated and self.kinds != ("all",):
            raise SettingsError("--kinds is for real faults: simulated ones are of all kinds")

    @property
    def consumers(self) -> int:
        """Number of all consumers."""
        return self.learners + self.runs + self.recorders

    def plan(self, seed: int) -> list[Fault]:
        """Return the faults of a run with this seed."""
        return plan(
            seed,
            self.faults,
            [kind for word in self.kinds for kind in GROUPS.get(word, (word,))],
            rigs=self.devices,
            consumers=self.consumers,
            learners=range(self.learners, self.learners + self.runs),
            every_s=self.every_s,
            hold_s=self.hold_s,
            long=self.long,
        )


def measure(settings: FaultsSettings) -> dict[str, Any]:
    """Run the faults and return the figures. If they name failures, the files are kept."""
    seed = random.SystemRandom().getrandbits(31) if settings.seed is None else settings.seed
    if settings.simulated:
        return _simulate(settings.simulated, seed)
    report_progress(f"seed {seed}: {settings.faults} faults while {settings.pairs} pairs are kept")
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=settings.folder))
    faults, started_s = settings.plan(seed), time.monotonic()
    load = RigLoad(int(settings.spool_mib * (1 << 20)), settings.pairs_per_s, grace_s=settings.grace_s)
    stage = Stage(
        folder,
        load,
        rigs=settings.devices,
        learners=settings.learners,
        runs=settings.runs,
        recorders=settings.recorders,
    )
    good, figures = False, dict[str, Any]()
    try:
        stage.start()
        _perform(stage, faults, settings.pairs)
        report_progress(f"all {len(faults)} faults are done, {stage.kept} pairs kept: missing pairs are pulled")
        stage.settle()
        ended_well = stage.end()
        figures = judge(stage, ended_well=ended_well, evicts=settings.spool_mib < SPOOL_MIB)
        figures |= {"seed": seed, "seconds": round(time.monotonic() - started_s, 1)}
        good = not figures["failures"]
    finally:
        with _uninterrupted():
            if not good:
                _keep_evidence(stage, figures)
            stage.close(keep=not good)
            if good:
                shutil.rmtree(folder)
            else:
                report_progress(f"journals, stores and spools are kept in {folder}")
    return figures


def render(_settings: FaultsSettings, figures: dict[str, Any]) -> list[Table]:
    """Return one table of the figures, and one with a line for each kind of fault."""
    kinds = {name: (times, _what(name)) for name, times in figures["faults"].items()}
    rest = {name: value for name, value in figures.items() if name != "faults"}
    return [
        figure_table("faults", ("kind", "times", "what"), kinds),
        name_value_table(f"seed {figures['seed']}", rest),
    ]


def goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """Yield the goal: there are no failures."""
    yield Goal("failures", len(figures["failures"]), 0)


COMMAND = Bench(FaultsSettings, measure, render, goals)


def _what(kind: str) -> str:
    return KINDS[kind].what if kind in KINDS else str(getattr(FaultyWorld, kind).__doc__)


def _simulate(faults: int, seed: int) -> dict[str, Any]:
    """Return the figures of simulated faults; the seed of a script that fails is reported, and repeats it exactly."""
    report_progress(f"seed {seed}: {faults} simulated faults")
    logging.disable(logging.CRITICAL)
    try:
        return {"seed": seed, **simulate(faults, seed, on_progress=report_progress)}
    finally:
        logging.disable(logging.NOTSET)


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


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off stop signals: a second Ctrl-C while disks are unmounted would leave them mounted."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep_evidence(stage: Stage, figures: dict[str, Any]) -> None:
    """Write journals, faults and figures into the folder that holds stores, spools and logs."""
    for rig in stage.rigs:
        (stage.folder / f"{rig.device}.journal").write_text("".join(f"{line}\n" for line in rig.journal.lines()))
    (stage.folder / "faults.txt").write_text("".join(f"{struck}\n" for struck in stage.struck))
    (stage.folder / "figures.json").write_text(json.dumps(figures, indent=1))
