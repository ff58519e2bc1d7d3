"""What is done to rigs, learners, links and spools: which fault, when and for how long follows from a seed.

How far a process had come when it was hit does not, so a failing seed is tried again rather than repeated bit for bit.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KINDS = {
    "kill-rig": "kill -9",
    "kill-learner": "kill -9",
    "stall-rig": "SIGSTOP, later SIGCONT",
    "stall-learner": "SIGSTOP, later SIGCONT",
    "cut-link": "all connections closed and new ones refused",
    "freeze-link": "nothing is forwarded, nothing closed",
    "clock": "the rig's clock goes back by an hour, or forward by ten days",
    "torn-tail": "the rig is killed, and what it wrote last is cut off at a random byte",
    "flipped-bits": "the rig is killed, and 1 to 8 bits of its spool are turned",
    "wiped-spool": "the rig is killed, and its spool deleted",
    "full-disk": "the rig's disk takes nothing more",
}
DESTROYING = ("torn-tail", "flipped-bits", "wiped-spool")
HARMING = (*DESTROYING, "full-disk")
"""What can cost pairs."""
HARMLESS = tuple(kind for kind in KINDS if kind not in HARMING)
LINK_KINDS = ("cut-link", "freeze-link")
LONG_KINDS = (*LINK_KINDS, "stall-rig", "stall-learner")
LONG_HOLD_SHARE = 0.05
LONG_HOLD_S = 8.0
"""Longer than the heartbeats' patience."""
CLOCK_STEPS_S = (-3600.0, 10 * 86400.0)
MAX_FLIPS = 8
MAX_ALONE = 20
QUIET_S = 2.0
"""Between faults that come alone."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done when, after the start of the run, to which rig and learner (of both, only links have both)."""

    kind: str
    at_s: float
    hold_s: float
    """How long until it is undone: until the killed are started again, too."""
    rig: int
    learner: int
    seed: int
    """Of the places of the damage."""

    def hits(self, rig: int, learner: int) -> bool:
        """Whether it touches this rig, this learner, or the link between them."""
        of_rig, of_learner = self.kind != "kill-learner" and self.kind != "stall-learner", self.kind in LINK_KINDS
        if not of_rig:
            return self.learner == learner
        return self.rig == rig and (not of_learner or self.learner == learner)


def plan(
    seed: int, count: int, kinds: Sequence[str], *, rigs: int, learners: int, every_s: float, hold_s: float, long: bool
) -> list[Fault]:
    """Faults in the order of their times, `every_s` apart in the mean; several may hold at once.

    The last tenth are cuts and freezes (where they are among the kinds) one at a time, which shows how soon a link is back.
    hold_s: of most of them at most. long: some cuts, freezes and stalls outlast the heartbeats.
    """
    rng = random.Random(seed)
    links = [kind for kind in kinds if kind in LINK_KINDS]
    alone = min(count // 10, MAX_ALONE) if links else 0
    faults, at_s, over_s = [], 0.0, 0.0
    for number in range(count):
        is_alone = number >= count - alone
        kind = rng.choice(links if is_alone else list(kinds))
        at_s = over_s + QUIET_S if is_alone else at_s + rng.expovariate(1 / every_s)
        held_s = rng.uniform(0.1, hold_s) if is_alone or rng.random() < 0.5 else rng.uniform(0.0, 0.3)
        if long and kind in LONG_KINDS and not is_alone and rng.random() < LONG_HOLD_SHARE:
            held_s = LONG_HOLD_S
        over_s = max(over_s, at_s + held_s)
        faults.append(Fault(kind, at_s, held_s, rng.randrange(rigs), rng.randrange(learners), rng.getrandbits(32)))
    return faults


def damage(kind: str, spool: Path, rng: random.Random) -> str:
    """Damage the spool of a rig that is dead; says what was done."""
    if kind == "wiped-spool":
        shutil.rmtree(spool, ignore_errors=True)
        return f"{spool} deleted"
    return _tear(spool, rng) if kind == "torn-tail" else _flip(spool, rng)


def _tear(spool: Path, rng: random.Random) -> str:
    """Cut off the newest segment or the log beside it: a power cut, and worse."""
    databases = sorted(path for path in spool.glob("*.sqlite") if path.stat().st_size)
    newest = [path for path in _files(spool) if databases and path.name.startswith(databases[-1].stem)]
    said = []
    for path in rng.sample(newest, rng.randint(1, len(newest))) if newest else ():
        size = path.stat().st_size
        path.chmod(0o644)
        os.truncate(path, rng.randrange(size))
        said.append(f"{path.name} cut from {size} to {path.stat().st_size}")
    return ", ".join(said) or "nothing to tear"


def _flip(spool: Path, rng: random.Random) -> str:
    said = []
    for _ in range(rng.randint(1, MAX_FLIPS)):
        files = _files(spool)
        if not files:
            return "nothing to flip"
        path = rng.choice(files)
        at, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << bit]))
        said.append(f"{path.name}:{at}.{bit}")
    return ", ".join(said)


def _files(spool: Path) -> list[Path]:
    return sorted(path for path in spool.glob("*") if path.is_file() and path.stat().st_size)
