"""Run directories as accidents leave them: logs lost and flipped, parts of other copies, half a copy, strays."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import committing
from learner_state import digest
from tiny_learner import TINY, make_pairs

from learner.runs.folder import RunDirectory
from stream.pair import EncodedPair


class Runs(NamedTuple):
    """Copies of run directories, taken while their learners were at work, as a kill leaves them."""

    now: Path
    """Three commits, the last two of which can be restored, then pairs and steps that no commit has."""
    older: Path
    """The same run before its third commit."""
    fork: Path
    """Goes on from `older`, with other pairs under the same keys."""
    other: Path
    """Another run with the same pairs."""
    states: dict[str, tuple[int, int]]
    """What the learners were at their commits: steps and pairs received by digest."""
    newest: str
    """The digest at the newest commit of `now`."""


def make_runs(folder: Path) -> Runs:
    """Train the runs."""
    states: dict[str, tuple[int, int]] = {}
    now = _trained(folder / "a", folder / "now", states, commits=2, moment=folder / "older")
    shutil.copytree(folder / "older", folder / "b")
    _trained(folder / "b", folder / "fork", states, commits=1, pairs=make_pairs(120)[:59:-1])
    _trained(folder / "c", folder / "other", states, commits=3)
    return Runs(folder / "now", folder / "older", folder / "fork", folder / "other", states, now)


def _trained(
    path: Path,
    copy: Path,
    states: dict[str, tuple[int, int]],
    *,
    commits: int,
    moment: Path | None = None,
    pairs: Sequence[EncodedPair] | None = None,
) -> str:
    """Train with so many commits, one more after `moment` is copied, and copy the run at work; what it was at the last commit."""
    newest = ""
    with committing.run(path, pairs) as a:
        directory = RunDirectory(path, TINY)
        for number in range(commits + (moment is not None)):
            if number == commits and moment is not None:
                shutil.copytree(path, moment)
            a.train(3)
            directory.append("steps", {"step": a.learner.steps})
            a.committer.finish()
            newest = digest(a.learner)
            states[newest] = a.learner.steps, a.source.acknowledged[-1]
        a.train(2)
        shutil.copytree(path, copy)
    return newest


def bytes_of(run: Path) -> dict[str, str]:
    """What must not change: all files by name, but the index that SQLite makes of its log."""
    files = (path for path in run.rglob("*") if not path.name.endswith("-shm"))
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in files
    }


def whole_folders(run: Path) -> set[str]:
    """The checkpoints whose sums fit."""
    found = set()
    for sums in run.glob("checkpoints/commit-*/SHA256SUMS"):
        with suppress(OSError, ValueError):
            rows = [line.split("  ") for line in sums.read_text().splitlines()]
            files = [(sums.parent / name).read_bytes() for _, name in rows]
            if len(rows) == 2 and [hashlib.sha256(file).hexdigest() for file in files] == [row[0] for row in rows]:
                found.add(sums.parent.name)
    return found


Damage = Callable[[Path, Runs, random.Random], None]


def _flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[draw.choice([draw.randrange(len(data)), draw.randrange(min(len(data), 64))])] ^= 1 << draw.randrange(8)
        path.write_bytes(data)


def _cut(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size + 1))


def _log(run: Path) -> Path:
    path = run / "pairs.sqlite-wal"
    path.touch()
    return path


def _folders(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("commit-*"))


def _elsewhere(runs: Runs, draw: random.Random) -> Path:
    return draw.choice([runs.older, runs.fork, runs.other])


def _take(name: str) -> Damage:
    """The file of another copy instead of this one's, be it without one."""

    def take(run: Path, runs: Runs, draw: random.Random) -> None:
        theirs = _elsewhere(runs, draw) / name
        (run / name).unlink(missing_ok=True)
        if theirs.exists():
            shutil.copy(theirs, run / name)

    return take


def _take_store(run: Path, runs: Runs, draw: random.Random) -> None:
    theirs = _elsewhere(runs, draw)
    for name in ("pairs.sqlite", "pairs.sqlite-wal", "pairs.sqlite-shm"):
        (run / name).unlink(missing_ok=True)
        if (theirs / name).exists():
            shutil.copy(theirs / name, run / name)


def _take_folders(run: Path, runs: Runs, draw: random.Random) -> None:
    """Instead of this one's, or among them."""
    theirs = _elsewhere(runs, draw)
    if draw.random() < 0.5:
        shutil.rmtree(run / "checkpoints")
    shutil.copytree(theirs / "checkpoints", run / "checkpoints", dirs_exist_ok=True)


def _damage_folders(run: Path, _runs: Runs, draw: random.Random) -> None:
    for folder in _folders(run)[-draw.choice([1, 1, 9]) :]:
        file = draw.choice(sorted(path for path in folder.glob("*") if path.is_file()) or [folder / "SHA256SUMS"])
        if draw.random() < 0.4 or not file.exists():
            file.unlink(missing_ok=True)
        else:
            draw.choice([_flip, _cut])(file, draw)


def _lose_folders(run: Path, _runs: Runs, draw: random.Random) -> None:
    for folder in _folders(run)[-draw.choice([1, 9]) :]:
        shutil.rmtree(folder)


def _stray_index(run: Path, _runs: Runs, draw: random.Random) -> None:
    (run / "pairs.sqlite-shm").write_bytes(draw.randbytes(32768))


def _strays(run: Path, runs: Runs, draw: random.Random) -> None:
    names = ["commit-000009-step-9", "commit-", "commit-x", "commit-999999999999999999-step-1"]
    makers: list[Callable[[Path], None]] = [
        Path.touch,
        Path.mkdir,
        lambda path: path.symlink_to(runs.other),
        lambda path: path.symlink_to("nowhere"),
    ]
    draw.choice(makers)(run / "checkpoints" / draw.choice(names))


LOG: dict[str, Damage] = {
    "a bit of the log": lambda run, _runs, draw: _flip(_log(run), draw),
    "a cut log": lambda run, _runs, draw: _cut(_log(run), draw),
    "no log": lambda run, _runs, _draw: _log(run).unlink(),
    "a stray index": _stray_index,
}
"""Damage after which the newest commit is still there."""
REST: dict[str, Damage] = {
    "the log of another copy": _take("pairs.sqlite-wal"),
    "the store of another copy": _take_store,
    "the store of another copy beside our log": _take("pairs.sqlite"),
    "a store of 0 bytes": lambda run, runs, draw: os.truncate(run / "pairs.sqlite", 0),
    "no store": lambda run, runs, draw: (run / "pairs.sqlite").unlink(missing_ok=True),
    "a bit of the store": lambda run, runs, draw: _flip(run / "pairs.sqlite", draw),
    "a cut store": lambda run, runs, draw: _cut(run / "pairs.sqlite", draw),
    "checkpoints of another copy": _take_folders,
    "damaged checkpoints": _damage_folders,
    "lost checkpoints": _lose_folders,
    "strays": _strays,
}
