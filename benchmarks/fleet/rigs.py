"""Rigs for the fleet: many publishers in one process, with pairs made beforehand, clocks of their own, and mishaps.

A rig's shelf keeps the headers of all its pairs, and the images once: what has to be pulled is what a spool would give, and no
disk is measured. A rig that stalls makes nothing for a while; one that restarts drops its sockets without a word, comes back
under the same address, and begins another epoch.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

import msgspec
import zmq

from stream.codec import to_parts
from stream.live.backfill_messages import MAX_ROWS, PairParts, Reading, Span
from stream.live.publisher import Publisher
from stream.pair import EncodedPair

AWAY_S = 1.0
"""How long a rig stalls, or is gone before it is back."""
IDLE_S = 0.001
LINGER_S = 0.5
"""Longest wait for a bye to be confirmed: a learner that is behind hears of it from the shelf."""

Mishap = Literal["none", "stall", "restart"]


@dataclass(frozen=True)
class RigPlan:
    """One rig: pairs a second (None: as fast as they are taken), the first after `phase_s`, its clock wrong by `clock_s`.

    The mishap befalls it in the middle of its time.
    """

    device: str
    pairs_per_s: float | None
    phase_s: float = 0.0
    clock_s: float = 0.0
    mishap: Mishap = "none"


class HeaderShelf:
    """A `Shelf` of pairs that all have the same images. Thread-safe: epochs and headers are only appended."""

    def __init__(self, device: str, pair: EncodedPair) -> None:
        self.device = device
        self._left, self._right = pair.left, pair.right
        self._headers: dict[str, list[bytes]] = {}
        self._newest: list[bytes] = []
        self._lock = threading.Lock()

    def begin(self) -> str:
        """Open another epoch."""
        epoch = uuid.uuid4().hex
        with self._lock:
            self._newest = self._headers[epoch] = []
        return epoch

    @property
    def head(self) -> int:
        """The number of the next pair."""
        return len(self._newest)

    def append(self, pair: EncodedPair) -> None:
        """Keep the next pair."""
        self._newest.append(to_parts(pair)[1])

    def spans(self) -> list[Span]:
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

    def register(self, consumer: str) -> None:
        """It keeps everything."""

    def acknowledge(self, consumer: str, upto: Mapping[str, int]) -> None:
        """It keeps everything."""


class Rig:
    """A rig at work; its process gives it turns."""

    def __init__(self, plan: RigPlan, pair: EncodedPair, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.plan = plan
        self.made = 0
        self._pair = pair
        self._context = context
        self._held: EncodedPair | None = None
        self._shelf = HeaderShelf(plan.device, pair)
        self._due_s, self._mishap_s = 0.0, float("inf")
        self._publisher: Publisher | None = self._open("tcp://127.0.0.1:0")
        self.endpoint = self._publisher.endpoint

    def begin(self, now_s: float, duration_s: float) -> None:
        """Time starts."""
        self._due_s = now_s + self.plan.phase_s
        if self.plan.mishap != "none":
            self._mishap_s = now_s + duration_s / 2

    def turn(self, now_s: float) -> bool:
        """Do what is due; False where nothing was, or nobody takes a pair."""
        if now_s >= self._mishap_s:
            self._meet(now_s)
        if now_s < self._due_s:
            return False
        if self._publisher is None:
            self._publisher = self._open(self.endpoint)
        pair = self._held or self._make(self._publisher)
        taken = self._publisher.send(pair)
        if self.plan.pairs_per_s is None:
            self._held = None if taken else pair  # given again at the next turn
            return taken
        self._due_s += 1 / self.plan.pairs_per_s
        return True

    def bye(self) -> None:
        """It makes no more; its shelf stays open."""
        if self._publisher is None:
            self._publisher = self._open(self.endpoint)
        self._publisher.bye()

    def close(self) -> None:
        """Leave."""
        if self._publisher is not None:
            self._publisher.close()

    def _make(self, publisher: Publisher) -> EncodedPair:
        captured_ns = time.time_ns() + int(1e9 * self.plan.clock_s)
        pair = EncodedPair(
            msgspec.structs.replace(
                self._pair.header,
                device=publisher.device,
                epoch=publisher.epoch,
                seq=self._shelf.head,
                left_ns=captured_ns,
                right_ns=captured_ns,
            ),
            self._pair.left,
            self._pair.right,
        )
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

    def _meet(self, now_s: float) -> None:
        self._mishap_s, self._due_s = float("inf"), now_s + AWAY_S
        if self.plan.mishap == "restart":
            self.close()
            self._publisher = None


def work(pipe: Connection, plans: list[RigPlan], pair: EncodedPair) -> None:
    """A process of rigs: says their endpoints, is told for how many seconds to go, says how many pairs each made.

    It then stays until it is told that all has been pulled.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
    context.set(zmq.MAX_SOCKETS, 8192)
    rigs = [Rig(plan, pair, context) for plan in plans]
    pipe.send([rig.endpoint for rig in rigs])
    duration_s: float = pipe.recv()
    _drive(rigs, duration_s)
    pipe.send({rig.plan.device: rig.made for rig in rigs})
    for rig in rigs:
        rig.bye()
    pipe.recv()
    for rig in rigs:
        rig.close()


def _drive(rigs: list[Rig], duration_s: float) -> None:
    now_s = time.monotonic()
    end_s = now_s + duration_s
    for rig in rigs:
        rig.begin(now_s, duration_s)
    while (now_s := time.monotonic()) < end_s:
        if not sum([rig.turn(now_s) for rig in rigs]):
            time.sleep(IDLE_S)
