"""What accidents do to the files of a rig or a consumer whose process is dead. Each function says what it has damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from benchmarks.shared.damage import cut_off, flip_bit

MAX_FLIPS = 8
_Damage = Callable[[Path, Random], str]


def damage(kind: str, home: Path, random: Random) -> str:
    """Damage the files in a folder, if the fault is of such a kind."""
    return _DAMAGE[kind](home, random) if kind in _DAMAGE else ""


def copy_over(source: Path, home: Path, *, without: Sequence[Path] = ()) -> None:
    """Replace the contents of a folder by those of another one, without some of its files. The folder itself stays."""
    home.mkdir(exist_ok=True)
    _empty(home)
    for path in _files(source):
        if path not in without:
            target = home / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def restore_backup(kind: str, backup: Path, home: Path, random: Random) -> str:
    """Put a backup in the place of the present files: whole, without SQLite's logs, or half of it.

    A half-old backup is one that a copying program did not finish: some present files stay.
    """
    files = _files(backup)
    match kind:
        case "old-backup":
            missing: list[Path] = []
        case "backup-without-log":
            missing = [path for path in files if path.name.endswith(("-wal", "-shm"))]
        case _:
            missing = random.sample(files, len(files) // 2)
            if random.random() < 0.5:
                for path in set(files) - set(missing):
                    target = home / path.relative_to(backup)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, target)
                return f"{len(files) - len(missing)} of {len(files)} files of a backup copied over the present ones"
    copy_over(backup, home, without=missing)
    return f"a backup restored without {', '.join(path.name for path in missing) or 'any loss'}"


def _wipe(home: Path, _random: Random) -> str:
    shutil.rmtree(home, ignore_errors=True)
    return f"{home} deleted"


def _tear(spool: Path, random: Random) -> str:
    """Cut off the end of the newest segment or of its log, as a power cut does, or more of it."""
    databases = sorted(path for path in spool.glob("*.sqlite") if path.stat().st_size)
    newest = [path for path in _written(spool) if databases and path.name.startswith(databases[-1].stem)]
    descriptions = [
        _cut(path, random) for path in (random.sample(newest, random.randint(1, len(newest))) if newest else ())
    ]
    return ", ".join(descriptions) or "nothing to tear"


def _flip(home: Path, random: Random) -> str:
    files = _written(home)
    if not files:
        return "nothing to flip"
    return ", ".join(_flip_in(random.choice(files), random) for _ in range(random.randint(1, MAX_FLIPS)))


def _harm_list(spool: Path, random: Random) -> str:
    """Damage or remove the list of consumers."""
    return _harm(spool / "consumers.json", random)


def _harm_log(run: Path, random: Random) -> str:
    """Damage or remove the log in which a killed learner leaves its commits."""
    return ", ".join(_harm(path, random) for path in run.rglob("*.sqlite-wal")) or "there is no log"


def _empty_store(run: Path, _random: Random) -> str:
    for path in run.rglob("*.sqlite"):
        cut_off(path, 0)
    return "pairs.sqlite emptied"


def _harm_checkpoint(run: Path, random: Random) -> str:
    newest = sorted(run.rglob("commit-*"))[-1:]
    return ", ".join(_harm(random.choice(_written(path)), random) for path in newest) or "there is no checkpoint"


_DAMAGE: dict[str, _Damage] = {
    "wiped-spool": _wipe,
    "torn-tail": _tear,
    "flipped-bits": _flip,
    "lost-list": _harm_list,
    "lost-log": _harm_log,
    "empty-store": _empty_store,
    "damaged-checkpoint": _harm_checkpoint,
    "flipped-run": _flip,
}


def _harm(path: Path, random: Random) -> str:
    """Flip a bit of a file, cut it off, empty it or remove it."""
    if not path.is_file() or not path.stat().st_size:
        return f"no {path.name}"
    match random.randrange(4):
        case 0:
            return _flip_in(path, random)
        case 1:
            return _cut(path, random)
        case 2:
            cut_off(path, 0)
            return f"{path.name} emptied"
    path.unlink()
    return f"{path.name} removed"


def _cut(path: Path, random: Random) -> str:
    size = path.stat().st_size
    cut_off(path, random.randrange(size))
    return f"{path.name} cut from {size} to {path.stat().st_size}"


def _flip_in(path: Path, random: Random) -> str:
    at, bit = random.randrange(path.stat().st_size), random.randrange(8)
    flip_bit(path, at, bit)
    return f"{path.name}:{at}.{bit}"


def _files(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*") if path.is_file())


def _written(home: Path) -> list[Path]:
    return [path for path in _files(home) if path.stat().st_size]


def _empty(home: Path) -> None:
    for path in home.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
