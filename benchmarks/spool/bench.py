"""Which embedded store should hold the rig's pairs? Throughput, stalls, bytes written, and the effect of damage.

The load is that of a rig: pairs of 358 kB are appended in order, made durable at once or within 0.5 s, read back in order at the
same time, and the older half is freed. Stores take turns in each round; the medians are reported. Then closed stores are damaged
and read again (`damage.py`).
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, get_args

import numpy as np
from rich.table import Table

from benchmarks.shared.bench import Bench, RoundsSettings, figure_table, in_turns, report_progress, seconds_of
from benchmarks.shared.bounds import Within
from benchmarks.shared.machine import not_installed
from benchmarks.shared.pairs import EYE_BYTES, jpeg_sized_pairs, renumbered
from benchmarks.spool.damage import Damage, count_outcomes
from benchmarks.spool.stores import STORES
from learner.errors import SettingsError

PAIR_BYTES = 2 * EYE_BYTES
SYNC_S = 0.5
SYNC_PAIRS = 16


@dataclass(frozen=True, kw_only=True)
class SpoolSettings(RoundsSettings):
    """Compare embedded stores as the rig's spool."""

    pairs: Annotated[int, Within(SYNC_PAIRS)] = 400
    """Pairs of a turn, 358 kB each."""
    damages: Annotated[int, Within(0)] = 20
    """Number of flipped bits, and of cut tails, for each store; each in a new copy of the store."""
    folder: Path | None = None
    """A folder on the disk to measure; the system's temporary folder by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folder is not None and not self.folder.is_dir():
            raise SettingsError(f"there is no folder {self.folder}: --folder must be one on the disk to be measured")


def measure(settings: SpoolSettings) -> dict[str, Any]:
    """Return the figures of each store, and the outcomes of damage."""
    left_out = not_installed({name: "lmdb" if name.startswith("lmdb") else None for name in STORES})
    for name, why in left_out.items():
        report_progress(f"{name} is left out: {why}")
    names = [name for name in STORES if name not in left_out]
    rounds = in_turns({name: partial(_turn, name, settings) for name in names}, settings.rounds)
    figures = {
        name: {figure: round(median(turn[figure] for turn in turns), 2) for figure in turns[0]}
        for name, turns in rounds.items()
    }
    damage = {
        name: {kind: count_outcomes(name, kind, settings.damages, settings.folder) for kind in get_args(Damage)}
        for name in names
    }
    return {"figures": figures, "damage": damage}


def render(settings: SpoolSettings, found: dict[str, Any]) -> list[Table]:
    """Return a table of the figures and a table of the damage."""
    damaged = {
        name: [", ".join(f"{outcome}: {count}" for outcome, count in outcomes.items()) for outcomes in kinds.values()]
        for name, kinds in found["damage"].items()
    }
    figures = {name: list(row.values()) for name, row in found["figures"].items()}
    columns = next(iter(found["figures"].values()))
    return [
        figure_table(f"median of {settings.rounds} rounds of {settings.pairs} pairs", ("store", *columns), figures),
        figure_table(f"outcomes of {settings.damages} damages each", ("store", *get_args(Damage)), damaged),
    ]


COMMAND = Bench(SpoolSettings, measure, render)


def _turn(name: str, settings: SpoolSettings) -> dict[str, float]:
    """Measure one store in a round: append and read back the newest pairs, close, open again, delete the older half."""
    views = jpeg_sized_pairs(SYNC_PAIRS)
    with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
        store = STORES[name](Path(folder))
        append_s: list[float] = []
        read_s, written, synced_s = 0.0, _written_bytes(), time.perf_counter()
        for seq in range(settings.pairs):
            pair = renumbered(views[seq % SYNC_PAIRS], seq)
            started_s = time.perf_counter()
            store.append(pair)
            last_of_group = (seq + 1) % SYNC_PAIRS == 0
            if last_of_group or started_s - synced_s >= SYNC_S:
                store.sync()
                synced_s = time.perf_counter()
            append_s.append(time.perf_counter() - started_s)
            if last_of_group:
                started_s = time.perf_counter()
                given = [number for number, _ in store.read(seq + 1 - SYNC_PAIRS)]
                read_s += time.perf_counter() - started_s
                assert given == list(range(seq + 1 - SYNC_PAIRS, seq + 1))
        close_s = seconds_of(store.close)
        written = _written_bytes() - written
        store = STORES[name](Path(folder))
        free_s = seconds_of(partial(store.free, settings.pairs // 2))
        store.close()
    return {
        "append MB/s": settings.pairs * PAIR_BYTES / (sum(append_s) + close_s) / 1e6,
        "p50 ms": 1e3 * float(np.percentile(append_s, 50)),
        "p99 ms": 1e3 * float(np.percentile(append_s, 99)),
        "read MB/s": settings.pairs // SYNC_PAIRS * SYNC_PAIRS * PAIR_BYTES / read_s / 1e6,
        "free ms": 1e3 * free_s,
        "written per byte": written / (settings.pairs * PAIR_BYTES),
    }


def _written_bytes() -> int:
    """Return the bytes that this process has written to disks, as Linux counts them."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])
