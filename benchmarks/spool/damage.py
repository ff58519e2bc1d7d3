"""Measures what happens when a damaged store is read. Each is read in a child process, because a store may end its process."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.shared.damage import cut_off, flip_bit
from benchmarks.shared.pairs import jpeg_sized_pairs
from benchmarks.spool.stores import STORES, to_stored
from stream.live.backfill_messages import PairParts

DAMAGED_PAIRS = 32
Damage = Literal["flip", "cut"]
"""The kind of damage: one bit of the largest file is flipped, or its tail is cut off."""
OUTCOMES = ("no harm", "error, the rest given", "error, nothing given", "wrong bytes given", "silent loss")
FIRST_CODE = 10
"""The exit code of a child process with the first outcome; the codes of the others follow it."""


def count_outcomes(name: str, damage: Damage, count: int, folder: Path | None) -> dict[str, int]:
    """Damage `count` new copies of a store, read each, and count the outcomes. folder: on the disk to measure."""
    context = multiprocessing.get_context("fork")
    outcomes: Counter[str] = Counter()
    for seed in range(count):
        with tempfile.TemporaryDirectory(dir=folder) as copy:
            child = context.Process(target=_read_damaged, args=(name, damage, Path(copy), seed))
            child.start()
            child.join()
            code = child.exitcode or 0
            outcomes[OUTCOMES[code - FIRST_CODE] if code >= FIRST_CODE else f"process killed by signal {-code}"] += 1
    return dict(sorted(outcomes.items()))


def _read_damaged(name: str, damage: Damage, folder: Path, seed: int) -> None:
    """Work in the child process: fill a store, close it, damage its largest file, read it. The exit code is the outcome."""
    logging.disable(logging.WARNING)  # lost pairs and signals are outcomes here
    faulthandler.disable()
    pairs = jpeg_sized_pairs(DAMAGED_PAIRS)
    expected = dict(enumerate(map(to_stored, pairs)))
    store = STORES[name](folder)
    for pair in pairs:
        store.append(pair)
    store.close()
    path = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    random, size = np.random.default_rng(seed), path.stat().st_size
    at = int(random.integers(size))
    cut_off(path, at) if damage == "cut" else flip_bit(path, at, int(random.integers(8)))
    given: dict[int, PairParts] = {}
    failed = False
    try:
        given.update(STORES[name](folder).read(0))
    except Exception:  # an error of a store is an outcome too, better than silence
        failed = True
    if any(expected.get(seq) != row for seq, row in given.items()):
        outcome = "wrong bytes given"
    elif failed:
        outcome = "error, the rest given" if given else "error, nothing given"
    else:
        outcome = "no harm" if len(given) == len(expected) else "silent loss"
    os._exit(FIRST_CODE + OUTCOMES.index(outcome))
