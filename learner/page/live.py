"""What the training thread hands to those who watch: words, counts, and now and then pictures that never change afterwards.

Nothing here decides what is trained. While nobody watches, a step costs it one look at a clock; while somebody does, pictures
are taken between two steps, so rarely that they take at most SHARE of the time. All drawing happens in the server's threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from learner.distributed import collectives
from learner.loop import Learner, StepReport, Waiting
from learner.page.health import Pulse
from learner.report.album import looks_at
from learner.runs.reading import Album
from stream.pair import EncodedPair
from stream.source import Source

SHARE = 0.001
"""Most of the time that taking pictures may cost."""
EVERY_S = 2.0
"""Least time between pictures."""
WATCHED_S = 10.0
"""How long after it last asked somebody still counts as watching: a page asks every two seconds."""
MAX_DEVICES = 16
"""Of so many devices, those heard of first, the latest pair is held."""
LOOKS = 2
ROW = 8
"""Pairs in each row of the contact sheet."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """Pairs of the reservoir: left images uint8 [n, H, W, 3] BGR as memory has them, squeezed, and what is known of each."""

    left: NDArray[np.uint8]
    aspect: tuple[float, ...]
    """Width / height before squeezing."""
    kl: tuple[float, ...]
    device: tuple[str, ...]
    captured_ns: tuple[int, ...]
    """Nanoseconds since 1970 by the device's clock."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Memory and networks at one instant; only copies, so that training cannot change it."""

    number: int
    step: int
    looks: tuple[Album, ...]
    """Of a pair each, as `learner.report.album.looks_at` gives it: pairs of two devices may differ in aspect."""
    rows: dict[str, Row]
    """highest, lowest, newest, oldest."""
    kept: NDArray[np.int64]
    """Arrival numbers of what the reservoir keeps."""
    arrived: int
    processes: int
    """Each holds an equal share of memory: this is that of the first."""


class Live:
    """One learner as it is watched. clock: seconds, monotonic."""

    def __init__(self, learner: Learner, clock: Callable[[], float]) -> None:
        self.learner = learner
        self.pulse = Pulse(clock)
        self.clock = clock
        self.source: Source | None = None
        """Set once it is open."""
        self.report: StepReport | None = None
        """Of the last step."""
        self.samples_per_s = 0.0
        """Lately, waiting included."""
        self.said = "starting"
        self.snapshot: Snapshot | None = None
        self._latest: dict[str, EncodedPair] = {}
        self._watched_until_s = -np.inf
        self._pictures_s = self._words_s = -np.inf

    def watch(self) -> None:
        """Somebody looks; called by the server."""
        self._watched_until_s = self.clock() + WATCHED_S

    def latest(self) -> dict[str, EncodedPair]:
        """The newest pair of each device, as it came; called by the server."""
        return self._latest.copy()

    def received(self, pair: EncodedPair) -> None:
        """A pair was taken."""
        device = pair.header.device
        if device in self._latest or len(self._latest) < MAX_DEVICES:
            self._latest[device] = pair

    def alive(self, how: Callable[[], str]) -> None:
        """The loop went round, between two steps; `how` says what it does."""
        self.pulse.beat()
        now_s = self.clock()
        if now_s < self._watched_until_s and now_s >= self._words_s:
            self._words_s = now_s + EVERY_S / 2
            self.said = how()

    def observe(self, event: StepReport | Waiting) -> None:
        """A step was taken, or none was due: take pictures where it is time."""
        if isinstance(event, StepReport):
            self._measure(event)
        now_s = self.clock()
        if now_s < self._watched_until_s and now_s >= self._pictures_s:
            self._take()
            taken_s = self.clock()
            self._pictures_s = taken_s + max(EVERY_S, (taken_s - now_s) / SHARE)

    def _take(self) -> None:
        try:
            self.snapshot = _taken(self.learner, self.snapshot.number + 1 if self.snapshot else 1)
        except Exception as error:  # whatever it is: training does not depend on its pictures
            log.warning("no pictures of step=%d: %s", self.learner.steps, repr(error).partition("\n")[0])

    def _measure(self, report: StepReport) -> None:
        took_s = report.busy_s + report.waited_s
        if took_s > 0:
            rate = self.learner.config.pacing.batch_size / took_s
            self.samples_per_s = 0.9 * self.samples_per_s + 0.1 * rate if self.report else rate
        self.report = report


def _taken(learner: Learner, number: int) -> Snapshot:
    memory = learner.memory
    highest, lowest = memory.extremes(ROW)
    newest, oldest = memory.ends(ROW)
    slots = {"highest": highest, "lowest": lowest, "newest": newest, "oldest": oldest}
    return Snapshot(
        number=number,
        step=learner.steps,
        looks=tuple(looks_at(learner, slots) for slots in memory.over_time(LOOKS).reshape(-1, 1)),
        rows={name: _row(learner, chosen) for name, chosen in slots.items()},
        kept=memory.reservoir.keys(),
        arrived=memory.arrived,
        processes=collectives.count(),
    )


def _row(learner: Learner, slots: NDArray[np.intp]) -> Row:
    memory = learner.memory
    known = [memory.captured[slot] for slot in slots]
    index = torch.from_numpy(slots.copy())  # torch takes no array that runs backwards
    return Row(
        left=memory.left[index].numpy(),  # a copy, since indexed by a tensor
        aspect=tuple(memory.aspect[index].tolist()),
        kl=tuple(memory.kl[slots].tolist()),
        device=tuple(device for device, _ in known),
        captured_ns=tuple(time_ns for _, time_ns in known),
    )
