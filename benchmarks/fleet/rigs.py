"""Rigs for the fleet bench: many publishers in one process, with pairs made beforehand, wrong clocks, and incidents.

A rig's shelf keeps the headers of all its pairs, and the images once. It replies as a spool does, but no disk is measured. A rig
that stalls makes no pairs for a while. A rig that restarts closes its sockets without a bye, comes back at the same address, and
begins another epoch.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

import zmq

from benchmarks.shared.pairs import renumbered
from stream.codec import to_parts
from stream.live.backfill_messages import MAX_ROWS, PairParts, Reading, Span
from stream.live.publisher import Publisher
from stream.pair import EncodedPair

AWAY_S = 1.0
"""Seconds for which a rig stalls, or is away before it comes back."""
IDLE_S = 0.001
LINGER_S = 0.5
"""Longest wait for the confirmation of a bye; a learner that is behind learns from the shelf that the stream has ended."""

Incident = Literal["none", "stall", "restart"]


@dataclass(frozen=True)
class FleetRigPlan:
    """One rig. pairs_per_s: None sends as fast as pairs are taken. phase_s: time of the first pair. clock_s: error of its clock.

    The incident happens in the middle of its time.
    """

    device: str
    pairs_per_s: float | None
    phase_s: float = 0.0
    clock_s: float = 0.0
    incident: Incident = "none"


class HeaderShelf:
    """A `Shelf` of pairs that all have the same images. It is thread-safe, because epochs and headers are only appended."""

    def __init__(self, device: str, pair: EncodedPair) -> None:
        self.device = device
        self._left, self._right = pair.left, pair.right
        self._headers: dict[str, list[bytes]] = {}
        self._newest: list[bytes] = []
        self._lock = threading.Lock()

    def begin(self) -> str:
        """Begin another epoch and return its name."""
        epoch = uuid.uuid4().hex
        with self._lock:
            self._newest = self._headers[epoch] = []
        return epoch

    @property
    def head(self) -> int:
        """The number of the next pair."""
        return len(self._newest)

    def append(self, pair: EncodedPair) -> None:
        """Keep the header of the next pair."""
        self._newest.append(to_parts(pair)[1])

    def spans(self, *, freed: bool = False) -> list[Span]:
        """See Shelf."""
        with self._lock:
            headers = list(self._headers.items())
        return [Span(epoch, 0, len(rows), epoch == headers[-1][0]) for epoch, rows in headers]

    def read(self, epoch: str, first: int, last: int, credit_bytes: int) -> Reading:
        """See Shelf."""
        headers = self._headers.get(epoch)
        if headers is None:
            return Reading(last, [(first, last)], [])
        fits = max(1, credit_bytes // (len(self._left) + len(self._right)))
        rows: list[PairParts] = [
            (header, self._left, self._right) for header in headers[first : min(last, first + min(fits, MAX_ROWS))]
        ]
        return Reading(first + len(rows), [], rows)

    def register(self, consumer: str, peer: str | None = None) -> bool:
        """Return True: every pair is kept."""
        return True

    def kept_from(self, consumer: str) -> None:
        """Return None: nobody notes when consumers come."""

    def acknowledge(self, consumer: str, upto: Mapping[str, int], peer: str | None = None) -> None:
        """Do nothing: every pair is kept."""

    def leave(self, consumer: str, peer: str | None = None) -> None:
        """Do nothing: nobody notes who is there."""


class FleetRig:
    """A rig that does one piece of work at each call of `turn`."""

    def __init__(self, plan: FleetRigPlan, pair: EncodedPair, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.plan = plan
        self.made = 0
        self._pair = pair
        self._context = context
        self._held: EncodedPair | None = None
        self._shelf = HeaderShelf(plan.device, pair)
        self._due_s, self._incident_s = 0.0, float("inf")
        self._publisher: Publisher | None = self._open("tcp://127.0.0.1:0")
        self.endpoint = self._publisher.endpoint

    def begin(self, now_s: float, duration_s: float) -> None:
        """Set the times of its first pair and of its incident. now_s: present time, monotonic; duration_s: length of the part."""
        self._due_s = now_s + self.plan.phase_s
        if self.plan.incident != "none":
            self._incident_s = now_s + duration_s / 2

    def turn(self, now_s: float) -> bool:
        """Send a pair if it is time to; return False if it is not yet, or if no subscriber takes the pair."""
        if now_s >= self._incident_s:
            self._suffer(now_s)
        if now_s < self._due_s:
            return False
        if self._publisher is None:
            self._publisher = self._open(self.endpoint)
        pair = self._held or self._make(self._publisher)
        taken = self._publisher.send(pair)
        if self.plan.pairs_per_s is None:
            self._held = None if taken else pair  # tried again at the next turn
            return taken
        self._due_s += 1 / self.plan.pairs_per_s
        return True

    def bye(self) -> None:
        """Announce that no more pairs follow; the shelf stays open."""
        if self._publisher is None:
            self._publisher = self._open(self.endpoint)
        self._publisher.bye()

    def close(self) -> None:
        """Close the sockets."""
        if self._publisher is not None:
            self._publisher.close()

    def _make(self, publisher: Publisher) -> EncodedPair:
        captured_ns = time.time_ns() + int(1e9 * self.plan.clock_s)
        names = {"device": publisher.device, "epoch": publisher.epoch}
        pair = renumbered(self._pair, self._shelf.head, captured_ns, **names)
        self._shelf.append(pair)
        self.made += 1
        return pair

    def _open(self, endpoint: str) -> Publisher:
        return Publisher(
            endpoint,
            device=self.plan.device,
            epoch=self._shelf.begin(),
            shelf=self._shelf,
            on_full="wait" if self.plan.pairs_per_s is None else "drop",
            wait_s=0.0,
            linger_s=LINGER_S,
            context=self._context,
        )

    def _suffer(self, now_s: float) -> None:
        self._incident_s, self._due_s = float("inf"), now_s + AWAY_S
        if self.plan.incident == "restart":
            self.close()
            self._publisher = None


def work(pipe: Connection, plans: list[FleetRigPlan], pair: EncodedPair) -> None:
    """Run a process of rigs: send their endpoints, receive a number of seconds to run, then send how many pairs each made.

    Then it stays until it receives another message, once all pairs have been pulled.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
    context.set(zmq.MAX_SOCKETS, 8192)
    rigs = [FleetRig(plan, pair, context) for plan in plans]
    pipe.send([rig.endpoint for rig in rigs])
    duration_s: float = pipe.recv()
    _drive(rigs, duration_s)
    pipe.send({rig.plan.device: rig.made for rig in rigs})
    for rig in rigs:
        rig.bye()
    pipe.recv()
    for rig in rigs:
        rig.close()


def _drive(rigs: list[FleetRig], duration_s: float) -> None:
    now_s = time.monotonic()
    end_s = now_s + duration_s
    for rig in rigs:
        rig.begin(now_s, duration_s)
    while (now_s := time.monotonic()) < end_s:
        if not sum([rig.turn(now_s) for rig in rigs]):
            time.sleep(IDLE_S)
