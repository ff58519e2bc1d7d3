"""The state of a learner for its page: text, counts, and from time to time a copy of its pictures that never changes.

Nothing here decides what is trained. While nobody watches, a step costs one reading of a clock, and counts are read every few
seconds, so that a page that is opened later shows what happened before. While somebody watches, pictures are copied between two
steps, so rarely that they take at most SHARE of the time. The server's threads draw them.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from learner.distributed import collectives
from learner.http.monitoring import Pulse
from learner.loop import Learner, StepReport, Waiting
from learner.memory import pictures
from learner.memory.slots import Slots
from learner.report.album import views_of
from learner.runs.reading import Album
from stream.image import Image
from stream.pair import SIGNAL_REASONS, EncodedPair
from stream.stats import SILENT_S, DeviceStats, SourceStats

SHARE = 0.001
"""Largest share of the time that copying pictures may take."""
EVERY_S = 2.0
"""Shortest time between two copies of pictures."""
WATCHED_S = 10.0
"""A page counts as watching for this time after its last request; it asks every two seconds."""
MAX_DEVICES = 16
"""The newest pair is kept of this many devices, the first ones that sent something."""
VIEWED_PAIRS = 2
"""Pairs whose views are shown."""
TREND_EVERY_S = 5.0
TREND_S = 600.0
"""Counts are remembered every so many seconds, for so long."""
KEY_REASONS = ("refused", "wrong_key")
"""Why handshakes fail if keys do not fit (`stream.transport.handshake.REASONS`)."""
ROW_PAIRS = 8
"""Pairs in each row of the contact sheet."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReservoirPair:
    """A pair of the reservoir. left: uint8 [H, W, 3] BGR, on the canvas of memory."""

    left: Image
    aspect: float
    """Width / height before squeezing."""
    priority: float
    device: str
    captured_ns: int
    """Nanoseconds since 1970 by the device's clock."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Memory and networks at one moment; it holds copies only, so that training cannot change it."""

    number: int
    step: int
    views: tuple[Album, ...]
    """The views of one pair each (`learner.report.album.views_of`): pairs of two devices may differ in aspect."""
    rows: dict[str, list[ReservoirPair]]
    """Keys: highest, lowest, newest, oldest."""
    kept: NDArray[np.int64]
    """Arrival numbers of the pairs in the reservoir."""
    arrived: int
    processes: int
    """Number of processes. Each holds an equal share of memory; this snapshot is of the first one's."""
    taken_s: float = 0.0
    """Seconds since 1970 by the clock of the learner."""


def copy_snapshot(learner: Learner, number: int) -> Snapshot:
    """Copy the pictures of a learner; number: of the snapshot, from 1."""
    memory = learner.memory
    highest, lowest = pictures.extremes(memory, ROW_PAIRS)
    newest, oldest = pictures.ends(memory, ROW_PAIRS)
    slots = {"highest": highest, "lowest": lowest, "newest": newest, "oldest": oldest}
    return Snapshot(
        number=number,
        step=learner.steps,
        views=tuple(views_of(learner, slots) for slots in pictures.over_time(memory, VIEWED_PAIRS).reshape(-1, 1)),
        rows={name: [_copy_pair(memory.slots, slot) for slot in chosen] for name, chosen in slots.items()},
        kept=memory.kept_keys(),
        arrived=memory.arrived,
        processes=collectives.count(),
    )


def _copy_pair(slots: Slots, slot: int) -> ReservoirPair:
    left = slots.left[slot].numpy().copy()
    return ReservoirPair(left, float(slots.aspect[slot]), float(slots.priority[slot]), *slots.captured[slot])


class Counts(NamedTuple):
    """Counts of a live stream at one moment, seconds of the monotonic clock."""

    at_s: float
    lost: int
    """Pairs that were ever counted as lost, those included that came later."""
    behind: int
    """Pairs on their way from rigs in reach, or waiting here."""
    undecodable: int
    malformed: int
    """Messages that were dropped; a message of which only a signal was dropped does not count."""
    untrusted: int
    """Handshakes that failed because of a key."""


def _ever_lost(devices: Mapping[str, DeviceStats]) -> int:
    return sum(device.lost + device.returned for device in devices.values())


class Live:
    """Holds what the page shows of a learner.

    clock: returns seconds, monotonic. copy: makes the snapshot of a number. time_s: returns seconds since 1970, for people.
    """

    def __init__(
        self,
        learner: Learner,
        clock: Callable[[], float],
        copy: Callable[[Learner, int], Snapshot] = copy_snapshot,
        *,
        time_s: Callable[[], float] = time.time,
    ) -> None:
        self._copy, self._time_s = copy, time_s
        self.learner = learner
        self.pulse = Pulse(clock)
        self.clock = clock
        self.report: StepReport | None = None
        """The last step; None before the first one."""
        self.waiting: Waiting | None = None
        """What is missing for the next step; None while steps are made."""
        self.samples_per_s = 0.0
        """A moving average over steps, waiting before them included."""
        self.status = "starting"
        self.stats: SourceStats | None = None
        """Statistics of the live stream; None for another source."""
        self.stats_s = 0.0
        """Time at which `stats` was read, by `clock`."""
        self.snapshot: Snapshot | None = None
        self.trend: deque[Counts] = deque(maxlen=int(TREND_S / TREND_EVERY_S))
        """Counts of the last ten minutes; the first ones are those with which this process began."""
        self.backlog = 0
        """Pairs that have arrived and wait to be received."""
        self._begins = True
        self._latest: dict[str, EncodedPair] = {}
        self._received_s: dict[str, float] = {}
        self._watched_until_s = -np.inf
        self._next_pictures_s = self._next_status_s = self._next_counts_s = -np.inf

    def watch(self) -> None:
        """Record that somebody watches; called by the server's threads."""
        self._watched_until_s = self.clock() + WATCHED_S

    def latest(self) -> dict[str, EncodedPair]:
        """Return the newest received pair of each device; called by the server's threads."""
        return self._latest.copy()

    def received_s(self, device: str) -> float:
        """Return when the newest pair of a device was received, seconds since 1970; 0.0 if none was."""
        return self._received_s.get(device, 0.0)

    def received(self, pair: EncodedPair) -> None:
        """Record a received pair."""
        device = pair.header.device
        if device in self._latest or len(self._latest) < MAX_DEVICES:
            self._latest[device] = pair
            self._received_s[device] = self._time_s()

    def alive(
        self,
        describe: Callable[[], str],
        stats: Callable[[], SourceStats | None] = lambda: None,
        backlog: Callable[[], int] = lambda: 0,
    ) -> None:
        """Record a sign of life between two steps.

        describe: returns what the loop does now; stats, backlog: return those of the source. They are called every second while
        somebody watches, otherwise every TREND_EVERY_S.
        """
        self.pulse.beat()
        now_s = self.clock()
        if now_s >= (self._next_status_s if now_s < self._watched_until_s else self._next_counts_s):
            self._next_status_s, self._next_counts_s = now_s + EVERY_S / 2, now_s + TREND_EVERY_S
            self.status, self.stats, self.stats_s, self.backlog = describe(), stats(), now_s, backlog()
            self._remember(now_s)

    def stopping(self, text: str) -> None:
        """Record that the learner takes no more pairs. text: what it does now."""
        self.pulse.stopping()
        self.status = text

    def _remember(self, now_s: float) -> None:
        stats = self.stats
        if stats is None or (self.trend and now_s < self.trend[-1].at_s + TREND_EVERY_S):
            return
        while self.trend and self.trend[0].at_s < now_s - TREND_S:
            self.trend.popleft()
        in_reach = (one.pending for one in stats.heard if (one.silent_s(now_s) or 0.0) < SILENT_S)
        counts = Counts(
            at_s=now_s,
            lost=_ever_lost(stats.devices),
            behind=sum(in_reach) + self.backlog,
            undecodable=self.learner.counts().undecodable,
            malformed=sum(number for why, number in stats.malformed.items() if why not in SIGNAL_REASONS),
            untrusted=sum(stats.failed_handshakes.get(reason, 0) for reason in KEY_REASONS),
        )
        if self._begins:
            self._begins = False
            began = counts._replace(lost=_ever_lost(stats.before), malformed=0, untrusted=0)
            self.trend.append(began)
        self.trend.append(counts)

    def observe(self, event: StepReport | Waiting) -> None:
        """Record a step, or that none was due, and copy pictures when it is time."""
        if isinstance(event, StepReport):
            self._measure(event)
        self.waiting = event if isinstance(event, Waiting) else None
        now_s = self.clock()
        if now_s < self._watched_until_s and now_s >= self._next_pictures_s:
            self._copy_pictures()
            copied_s = self.clock()
            self._next_pictures_s = copied_s + max(EVERY_S, (copied_s - now_s) / SHARE)

    def samples_now(self) -> float:
        """Return the samples a second at present: fewer and fewer while the next step waits for pairs."""
        if self.waiting is None or self.waiting.waited_s <= 0:
            return self.samples_per_s
        return min(self.samples_per_s, self.learner.config.pacing.batch_size / self.waiting.waited_s)

    def _copy_pictures(self) -> None:
        try:
            snapshot = self._copy(self.learner, self.snapshot.number + 1 if self.snapshot else 1)
            self.snapshot = replace(snapshot, taken_s=self._time_s())
        except Exception as error:  # of any kind: training does not depend on pictures
            log.warning("no pictures of step=%d: %s", self.learner.steps, repr(error).partition("\n")[0])

    def _measure(self, report: StepReport) -> None:
        took_s = report.busy_s + report.waited_s
        if took_s > 0:
            rate = self.learner.config.pacing.batch_size / took_s
            self.samples_per_s = 0.9 * self.samples_per_s + 0.1 * rate if self.report else rate
        self.report = report
