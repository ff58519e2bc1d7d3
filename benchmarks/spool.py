"""Which embedded store holds the rig's pairs? Throughput, stalls, bytes written, and what damage does to each.

The work is a rig's: pairs of 358 kB appended in order, durable at once or within 0.5 s, read back in order meanwhile, the older
half freed. Stores take turns in each round; the medians are reported. Damage is done to a closed store that is read in a
child process, because a store may take its process with it.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import logging
import multiprocessing
import os
import sqlite3
import statistics
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from device.spool.rules import SpoolLimits
from device.spool.spool import Spool
from stream.codec import encode_pair, to_parts
from stream.fsync import sync_path
from stream.live.backfill_messages import PairParts
from stream.pair import EncodedPair
from stream.ranges import Ranges

EYE_BYTES = 179_000
PAIR_BYTES = 2 * EYE_BYTES
TABLE_COLUMNS = 120
DEVICE, EPOCH = "bench", "0" * 32
SYNC_S = 0.5
SYNC_PAIRS = 16
SEGMENT_PAIRS = 184
"""64 MiB of pairs."""
DAMAGED_PAIRS = 32


@dataclass(frozen=True, kw_only=True)
class SpoolSettings:
    """Compare embedded stores as the rig's spool."""

    rounds: int = 5
    """Rounds in which every store takes its turn; the median is reported."""
    pairs: int = 400
    """Pairs of a turn, 358 kB each."""
    damages: int = 20
    """Bits flipped, and tails cut, for each store; each in a fresh copy of it."""
    folder: Path | None = None
    """On the disk to be measured; the system's temporary folder by default."""
    json: bool = False
    """One JSON object instead of the table."""


class Store(Protocol):
    """What is compared; made anew with its folder, which may hold what an earlier one left."""

    def append(self, pair: EncodedPair) -> None:
        """Keep a pair; it survives the death of the process where the store says so."""

    def sync(self) -> None:
        """Make what was appended survive a power cut."""

    def read(self, first: int) -> Iterator[tuple[int, PairParts]]:
        """The pairs from this number on, in order."""

    def free(self, below: int) -> None:
        """Forget the pairs below this number and give their room back, to the disk or to later pairs."""

    def close(self) -> None:
        """Sync and close."""


class Rollback:
    """One SQLite file with a rollback journal, synchronous=FULL; a transaction holds `group` pairs."""

    def __init__(self, folder: Path, group: int) -> None:
        self._connection = sqlite3.connect(folder / "pairs.sqlite", isolation_level=None)
        self._connection.executescript("PRAGMA synchronous=FULL;" + SCHEMA)
        self._group = group

    def append(self, pair: EncodedPair) -> None:
        """A power cut loses nothing that was committed; kill -9 loses the open group."""
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")
        self._connection.execute(INSERT, (pair.header.seq, *to_row(pair)))
        if (pair.header.seq + 1) % self._group == 0:
            self._connection.execute("COMMIT")

    def sync(self) -> None:
        """Every commit is a sync."""

    def read(self, first: int) -> Iterator[tuple[int, PairParts]]:
        """One statement."""
        return _rows(self._connection, first)

    def free(self, below: int) -> None:
        """The pages go to later pairs."""
        self._connection.execute("DELETE FROM pairs WHERE seq < ?", (below,))

    def close(self) -> None:
        """Commit the open group."""
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
        self._connection.close()


class WalSegments:
    """SQLite files of 64 MiB: the last one in WAL mode, a commit a pair, its log synced by us; the others plain."""

    def __init__(self, folder: Path, page_bytes: int) -> None:
        self._folder, self._page_bytes = folder, page_bytes
        self._open: sqlite3.Connection | None = None
        self._log = -1

    def append(self, pair: EncodedPair) -> None:
        """Kill -9 loses nothing, a power cut what was not synced."""
        seq = pair.header.seq
        if self._open is None or seq % SEGMENT_PAIRS == 0:
            self._seal()
            self._begin(self._folder / f"{seq:012}.sqlite")
        assert self._open is not None
        self._open.execute(INSERT, (seq, *to_row(pair)))

    def sync(self) -> None:
        """One fdatasync of the log."""
        os.fdatasync(self._log)

    def read(self, first: int) -> Iterator[tuple[int, PairParts]]:
        """Segment by segment; the open one by its own connection."""
        paths = sorted(self._folder.glob("*.sqlite"))
        for path in paths[:-1] if self._open else paths:
            if int(path.stem) + SEGMENT_PAIRS > first:
                with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
                    yield from _rows(connection, first)
        if self._open:
            yield from _rows(self._open, first)

    def free(self, below: int) -> None:
        """Whole segments are unlinked."""
        paths = sorted(self._folder.glob("*.sqlite"))
        for path, following in pairwise(paths):
            if int(following.stem) <= below:
                path.unlink()

    def close(self) -> None:
        """The last one becomes plain too."""
        self._seal()

    def _begin(self, path: Path) -> None:
        self._open = sqlite3.connect(path, isolation_level=None)
        self._open.executescript(
            f"PRAGMA page_size={self._page_bytes}; PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL;"
            f"PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-512; {SCHEMA}"
        )
        self._log = os.open(f"{path}-wal", os.O_RDWR)
        sync_path(self._folder)

    def _seal(self) -> None:
        if self._open is not None:
            self._open.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._open.execute("PRAGMA journal_mode=DELETE").fetchall()
            self._open.close()
            os.close(self._log)
            self._open = None


class Lmdb:
    """One LMDB file, a commit a pair, synced with each one or all 0.5 s.

    Without a sync for each commit a power cut may break the whole file, unless the file system keeps the order of writes.
    """

    def __init__(self, folder: Path, sync: bool) -> None:
        # Loaded by name: it is no dependency of ours, and mypy has to pass without it.
        lmdb = importlib.import_module("lmdb")
        self._environment: Any = lmdb.open(str(folder), map_size=16 << 30, sync=sync)

    def append(self, pair: EncodedPair) -> None:
        """Kill -9 loses nothing."""
        with self._environment.begin(write=True) as transaction:
            for number, part in enumerate(to_row(pair)):
                transaction.put(_key(pair.header.seq, number), part, append=True)

    def sync(self) -> None:
        """Also what was committed without."""
        self._environment.sync(True)

    def read(self, first: int) -> Iterator[tuple[int, PairParts]]:
        """One cursor."""
        with self._environment.begin() as transaction:
            cursor = transaction.cursor()
            cursor.set_range(_key(first, 0))
            values = iter(cursor)
            for (key, header), (_, left), (_, right) in zip(values, values, values, strict=True):
                yield int.from_bytes(key[:8]), (header, left, right)

    def free(self, below: int) -> None:
        """The pages go to later pairs."""
        with self._environment.begin(write=True) as transaction:
            cursor = transaction.cursor()
            cursor.first()
            while int.from_bytes(cursor.key()[:8]) < below and cursor.delete():
                pass

    def close(self) -> None:
        """Sync and unmap."""
        self._environment.sync(True)
        self._environment.close()


class Ours:
    """`device.spool`: the WAL segments above, synced by a thread and sealed by another, every pair verified."""

    def __init__(self, folder: Path) -> None:
        # The epoch can be written once: a store that is opened again reads it and frees.
        again = any(folder.iterdir())
        epoch = None if again else EPOCH
        self._spool = Spool(folder, SpoolLimits(8 << 30, free_floor_bytes=0), device=DEVICE, epoch=epoch)

    def append(self, pair: EncodedPair) -> None:
        """Kill -9 loses nothing, a power cut what was not synced."""
        if not self._spool.append(pair):
            raise OSError("the disk refuses pairs")

    def sync(self) -> None:
        """It does that itself."""

    def read(self, first: int) -> Iterator[tuple[int, PairParts]]:
        """As a learner pulls: in answers of at most 1 MiB."""
        lost: list[tuple[int, int]] = []
        head = max(span.head for span in self._spool.spans() if span.epoch == EPOCH)
        while first < head:
            reading = self._spool.read(EPOCH, first, head, 1 << 20)
            missing = Ranges(reading.lost)
            yield from zip((seq for seq in range(first, reading.next) if seq not in missing), reading.rows, strict=True)
            lost += reading.lost
            first = reading.next
        if lost:
            raise LookupError(f"lost: {lost}")

    def free(self, below: int) -> None:
        """By acknowledgement."""
        self._spool.acknowledge("bench", {EPOCH: below})

    def close(self) -> None:
        """Sync and seal."""
        self._spool.close()


SCHEMA = "CREATE TABLE IF NOT EXISTS pairs (seq INTEGER PRIMARY KEY, header BLOB, left BLOB, right BLOB)"
INSERT = "INSERT INTO pairs VALUES (?, ?, ?, ?)"
STORES: Mapping[str, Callable[[Path], Store]] = {
    "sqlite rollback, 1 pair a commit": lambda folder: Rollback(folder, 1),
    "sqlite rollback, 16 pairs a commit": lambda folder: Rollback(folder, 16),
    "sqlite wal segments, 4 KiB pages": lambda folder: WalSegments(folder, 4096),
    "sqlite wal segments, 16 KiB pages": lambda folder: WalSegments(folder, 16384),
    "lmdb, synced each": lambda folder: Lmdb(folder, True),
    "lmdb, synced at 0.5 s": lambda folder: Lmdb(folder, False),
    "device.spool": Ours,
}


def main(arguments: Sequence[str]) -> int:
    """Let all stores work and print what they did."""
    settings = tyro.cli(SpoolSettings, args=list(arguments), prog="python -m benchmarks spool")
    if min(settings.rounds, settings.pairs) < 1 or settings.damages < 0:
        raise ValueError("--rounds and --pairs must be at least 1, --damages at least 0")
    if settings.folder is not None and not settings.folder.is_dir():
        raise ValueError(f"there is no folder {settings.folder}: --folder is one on the disk to be measured")
    stores = dict(STORES)
    if importlib.util.find_spec("lmdb") is None:
        sys.stderr.write("LMDB is left out: it is not installed (pip install -e '.[peers]')\n")
        stores = {name: make for name, make in stores.items() if not name.startswith("lmdb")}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in stores}
    for _ in range(settings.rounds):
        for name, make in stores.items():
            with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
                rounds[name].append(_turn(make, Path(folder), settings.pairs))
    figures = {
        name: {what: round(statistics.median(turn[what] for turn in turns), 2) for what in turns[0]}
        for name, turns in rounds.items()
    }
    damage = {name: {kind: _damages(name, kind, settings) for kind in ("flip", "cut")} for name in stores}
    if settings.json:
        sys.stdout.write(json.dumps({"figures": figures, "damage": damage}) + "\n")
        return 0
    _show(f"median of {settings.rounds} rounds of {settings.pairs} pairs", figures)
    _show(f"{settings.damages} flipped bits, {settings.damages} cut tails: what reading came to", damage)
    return 0


def _turn(make: Callable[[Path], Store], folder: Path, pairs: int) -> dict[str, float]:
    """One store's turn: append and read back what was just appended, close, open again, free the older half."""
    views = _views()
    store = make(folder)
    took_s: list[float] = []
    read_s, written, synced_s = 0.0, _written_bytes(), time.perf_counter()
    for seq in range(pairs):
        pair = _numbered(views, seq)
        started_s = time.perf_counter()
        store.append(pair)
        last_of_group = (seq + 1) % SYNC_PAIRS == 0
        if last_of_group or started_s - synced_s >= SYNC_S:
            store.sync()
            synced_s = time.perf_counter()
        took_s.append(time.perf_counter() - started_s)
        if last_of_group:
            started_s = time.perf_counter()
            given = [number for number, _ in store.read(seq + 1 - SYNC_PAIRS)]
            read_s += time.perf_counter() - started_s
            assert given == list(range(seq + 1 - SYNC_PAIRS, seq + 1))
    closing_s = _timed(store.close)
    written = _written_bytes() - written
    store = make(folder)
    freed_s = _timed(lambda: store.free(pairs // 2))
    store.close()
    return {
        "append MB/s": pairs * PAIR_BYTES / (sum(took_s) + closing_s) / 1e6,
        "p50 ms": 1e3 * float(np.percentile(took_s, 50)),
        "p99 ms": 1e3 * float(np.percentile(took_s, 99)),
        "read MB/s": pairs // SYNC_PAIRS * SYNC_PAIRS * PAIR_BYTES / read_s / 1e6,
        "free ms": 1e3 * freed_s,
        "written per byte": written / (pairs * PAIR_BYTES),
    }


def _damages(name: str, kind: str, settings: SpoolSettings) -> dict[str, int]:
    """What reading a damaged store came to, how often."""
    context = multiprocessing.get_context("fork")
    outcomes: Counter[str] = Counter()
    for seed in range(settings.damages):
        with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
            child = context.Process(target=_read_damaged, args=(name, kind, Path(folder), seed))
            child.start()
            child.join()
            outcomes[OUTCOMES.get(child.exitcode or 0, f"process killed by signal {-(child.exitcode or 0)}")] += 1
    return dict(sorted(outcomes.items()))


OUTCOMES = {
    0: "no harm",
    10: "error, the rest given",
    11: "error, nothing given",
    12: "wrong bytes given",
    13: "silent loss",
}


def _read_damaged(name: str, kind: str, folder: Path, seed: int) -> None:
    """The child: fill a store, close it, damage its largest file, read it; says the outcome as its exit code."""
    logging.disable(logging.WARNING)  # what is lost is the outcome, and so is a signal
    faulthandler.disable()
    views = _views()
    expected = {seq: to_row(_numbered(views, seq)) for seq in range(DAMAGED_PAIRS)}
    store = STORES[name](folder)
    for seq in expected:
        store.append(_numbered(views, seq))
    store.close()
    path = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    path.chmod(0o644)
    _damage(path, kind, np.random.default_rng(seed))
    given: dict[int, PairParts] = {}
    raised = False
    try:
        given.update(STORES[name](folder).read(0))
    except Exception:  # whatever a store says is better than silence
        raised = True
    if any(expected.get(seq) != row for seq, row in given.items()):
        code = 12
    elif raised:
        code = 10 if given else 11
    else:
        code = 0 if len(given) == len(expected) else 13
    os._exit(code)


def _damage(path: Path, kind: str, rng: np.random.Generator) -> None:
    size = path.stat().st_size
    if kind == "cut":
        os.truncate(path, int(rng.integers(size)))
        return
    with path.open("r+b") as file:
        at = int(rng.integers(size))
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << int(rng.integers(8))]))


def to_row(pair: EncodedPair) -> PairParts:
    """What a spool keeps of a pair."""
    _, header, left, right = to_parts(pair)
    return header, left, right


def _views() -> list[EncodedPair]:
    """Bytes as a JPEG's: nothing in them compresses."""
    draw = np.random.default_rng(0).bytes
    black = np.zeros((720, 1280), np.uint8)
    header = encode_pair(black, black, device=DEVICE, epoch=EPOCH, seq=0, left_ns=0, right_ns=0).header
    views = []
    for _ in range(SYNC_PAIRS):
        left, right = draw(EYE_BYTES), draw(EYE_BYTES)
        crc = zlib.crc32(right, zlib.crc32(left))
        views.append(EncodedPair(msgspec.structs.replace(header, crc=crc), left, right))
    return views


def _numbered(views: Sequence[EncodedPair], seq: int) -> EncodedPair:
    view = views[seq % len(views)]
    return EncodedPair(msgspec.structs.replace(view.header, seq=seq), view.left, view.right)


def _rows(connection: sqlite3.Connection, first: int) -> Iterator[tuple[int, PairParts]]:
    for seq, header, left, right in connection.execute("SELECT * FROM pairs WHERE seq >= ? ORDER BY seq", (first,)):
        yield seq, (header, left, right)


def _key(seq: int, part: int) -> bytes:
    return seq.to_bytes(8) + bytes([part])


def _timed(work: Callable[[], None]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _written_bytes() -> int:
    """What this process has caused to be written to a disk, as Linux accounts it."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def _show(title: str, rows: Mapping[str, Mapping[str, object]]) -> None:
    table = Table("store", *next(iter(rows.values())), title=title)
    for name, row in rows.items():
        table.add_row(name, *(_said(value) for value in row.values()))
    Console(width=TABLE_COLUMNS).print(table)


def _said(value: object) -> str:
    return ", ".join(f"{what}: {count}" for what, count in value.items()) if isinstance(value, dict) else str(value)
