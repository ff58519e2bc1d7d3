"""Faults of rigs, learners, links and spools. A seed decides their kinds, times and lengths.

It does not decide how far a process has got when a fault happens, so a failing seed can be tried again, but not repeated exactly.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.shared.damage import cut_off, flip_bit

KINDS = {
    "kill-rig": "kill -9",
    "kill-learner": "kill -9",
    "stall-rig": "SIGSTOP, later SIGCONT",
    "stall-learner": "SIGSTOP, later SIGCONT",
    "cut-link": "all connections closed and new ones refused",
    "freeze-link": "nothing is forwarded, nothing closed",
    "clock": "the rig's clock goes back by an hour, or forward by ten days",
    "torn-tail": "the rig is killed, and its newest file is cut off at a random byte",
    "flipped-bits": "the rig is killed, and 1 to 8 bits of its spool are turned",
    "wiped-spool": "the rig is killed, and its spool deleted",
    "full-disk": "the rig's disk takes nothing more",
}
DESTROYING = ("torn-tail", "flipped-bits", "wiped-spool")
HARMING = (*DESTROYING, "full-disk")
"""Kinds that can cost pairs."""
HARMLESS = tuple(kind for kind in KINDS if kind not in HARMING)
LINK_KINDS = ("cut-link", "freeze-link")
LEARNER_KINDS = ("kill-learner", "stall-learner")
LONG_KINDS = (*LINK_KINDS, "stall-rig", "stall-learner")
LONG_HOLD_SHARE = 0.05
LONG_HOLD_S = 8.0
"""Length of a long fault, which is longer than the timeout of a connection."""
CLOCK_STEPS_S = (-3600.0, 10 * 86400.0)
MAX_FLIPS = 8
MAX_ALONE = 20
QUIET_S = 2.0
"""Time between two faults that are done one at a time."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its time after the start of the run, its rig and its learner (only a fault of a link concerns both)."""

    kind: str
    at_s: float
    hold_s: float
    """Seconds until the fault is undone, or until a killed process is started again."""
    rig: int
    learner: int
    seed: int
    """Seed of the positions of the damage."""

    def hits(self, rig: int, learner: int) -> bool:
        """Return whether the fault concerns this rig, this learner, or the link between them."""
        same_learner = self.learner == learner
        return (
            same_learner
            if self.kind in LEARNER_KINDS
            else self.rig == rig and (same_learner or self.kind not in LINK_KINDS)
        )


def plan(
    seed: int, count: int, kinds: Sequence[str], *, rigs: int, learners: int, every_s: float, hold_s: float, long: bool
) -> list[Fault]:
    """Return faults in the order of their times, on average `every_s` apart; several may be active at the same time.

    The last tenth are cuts and freezes (if they are among the kinds) one at a time, which shows how soon a link works again.
    hold_s: longest length of most faults. long: some cuts, freezes and stalls last longer than the timeout of a connection.
    """
    random = Random(seed)
    links = [kind for kind in kinds if kind in LINK_KINDS]
    alone = min(count // 10, MAX_ALONE) if links else 0
    faults, at_s, over_s = [], 0.0, 0.0
    for number in range(count):
        is_alone = number >= count - alone
        kind = random.choice(links if is_alone else list(kinds))
        at_s = over_s + QUIET_S if is_alone else at_s + random.expovariate(1 / every_s)
        held_s = random.uniform(0.1, hold_s) if is_alone or random.random() < 0.5 else random.uniform(0.0, 0.3)
        if long and kind in LONG_KINDS and not is_alone and random.random() < LONG_HOLD_SHARE:
            held_s = LONG_HOLD_S
        over_s = max(over_s, at_s + held_s)
        faults.append(
            Fault(kind, at_s, held_s, random.randrange(rigs), random.randrange(learners), random.getrandbits(32))
        )
    return faults


def damage(kind: str, spool: Path, random: Random) -> str:
    """Damage the spool of a rig whose process is dead, if the fault is of such a kind; return a description of the damage."""
    if kind == "wiped-spool":
        shutil.rmtree(spool, ignore_errors=True)
        return f"{spool} deleted"
    return {"torn-tail": _tear, "flipped-bits": _flip}.get(kind, lambda _spool, _random: "")(spool, random)


def _tear(spool: Path, random: Random) -> str:
    """Cut off the end of the newest segment or of its log, as a power cut does, or more of it."""
    databases = sorted(path for path in spool.glob("*.sqlite") if path.stat().st_size)
    newest = [path for path in _files(spool) if databases and path.name.startswith(databases[-1].stem)]
    descriptions = []
    for path in random.sample(newest, random.randint(1, len(newest))) if newest else ():
        size = path.stat().st_size
        cut_off(path, random.randrange(size))
        descriptions.append(f"{path.name} cut from {size} to {path.stat().st_size}")
    return ", ".join(descriptions) or "nothing to tear"


def _flip(spool: Path, random: Random) -> str:
    descriptions = []
    for _ in range(random.randint(1, MAX_FLIPS)):
        files = _files(spool)
        if not files:
            return "nothing to flip"
        path = random.choice(files)
        at, bit = random.randrange(path.stat().st_size), random.randrange(8)
        flip_bit(path, at, bit)
        descriptions.append(f"{path.name}:{at}.{bit}")
    return ", ".join(descriptions)


def _files(spool: Path) -> list[Path]:
    return sorted(path for path in spool.glob("*") if path.is_file() and path.stat().st_size)
