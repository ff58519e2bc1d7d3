"""One trip: stereo pairs go from a sender process to a receiver process, and the cost for both processes is measured.

Every pair carries its number and its capture time, so the receiver knows which pairs are missing and how old a pair is: both
processes read one machine's monotonic clock. Sockets are opened and images are made before anything is measured. At full speed
each process has one core for all its threads; if the scheduler decides, a contender may be twice as fast in one run as in
another.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import cv2
import numpy as np

from benchmarks.shared.pairs import HD, Eyes, encoded, renumbered
from benchmarks.shared.processes import Workers
from benchmarks.transport.peers.lineup import CONTENDERS
from learner.errors import Failed
from stream.image import Image
from stream.pair import EncodedPair

VIEWS = 4
NOISE_SIGMA = 11.7
"""Standard deviation of the noise that makes a JPEG of about 179 kB at the default quality, as a 720p camera gives it."""
SETTLE_S = 0.5
"""Pause after both ends are open, because ZeroMQ's PUB cannot tell that its subscriber has joined."""
END_TIMEOUT_S = 120.0
"""Longest wait for the end of a trip, in addition to its own length."""
Load = Sequence[Eyes] | Sequence[EncodedPair]
"""The images that are sent again and again. The parent makes them, so that only its queue makes a sender's memory grow."""


@dataclass(frozen=True)
class Plan:
    """How the sender sends."""

    duration_s: float
    pairs_per_s: float | None = None
    """The pace of the camera; None sends as fast as possible. A camera does not wait: shots taken while the
    sender is blocked are skipped."""
    decoded: bool = False
    """Whether the sender encodes and the receiver decodes; otherwise the JPEGs are made beforehand and are not decoded."""


@dataclass(frozen=True)
class Sent:
    """The sender's counts."""

    pairs: int
    skipped: int
    """Number of shots that were not taken because the sender was blocked."""
    started_ns: int
    cpu_s: float


@dataclass(frozen=True)
class Received:
    """The receiver's counts."""

    pairs: int
    repeated: int
    size_bytes: int
    """Bytes of the encoded images."""
    ended_ns: int
    """Time at which the last pair arrived."""
    cpu_s: float
    latencies_ms: list[float] = field(repr=False)
    """Milliseconds from capture to arrival, or to the decoded images if the plan decodes, in the order of arrival."""


@dataclass(frozen=True)
class Trip:
    """The counts of both ends of one trip."""

    sent: Sent
    received: Received

    @property
    def pairs_per_s(self) -> float:
        """Number of arrived pairs, divided by the time from the first sending to the last arrival."""
        return self.received.pairs / (1e-9 * (self.received.ended_ns - self.sent.started_ns))

    @property
    def mb_per_s(self) -> float:
        """Bytes of encoded images that arrived, in 10^6 per second."""
        return self.pairs_per_s * self.received.size_bytes / 1e6 / max(1, self.received.pairs)

    @property
    def lost(self) -> int:
        """Pairs that were sent and never arrived."""
        return self.sent.pairs - self.received.pairs


def travel(
    name: str,
    plan: Plan,
    *,
    port: int,
    connect_port: int | None = None,
    during: Callable[[int, int], None] = lambda _sender, _receiver: None,
) -> Trip:
    """Send pairs from one process to another by a contender, as planned; return the trip.

    port: where its listening end binds. connect_port: where the other end connects, if that is another port.
    during: called once pairs are being sent, with the process ids of sender and receiver.
    Raises Failed if one of the two fails or does not end, or if nothing arrives.
    """
    load = _views() if plan.decoded else _encoded_views()
    ends: list[tuple[str, Callable[..., None], Load | None]] = [("sender", _send, load), ("receiver", _receive, None)]
    if CONTENDERS[name].receiver_binds:
        ends.reverse()
    with closing(Workers()) as both:
        for (role, work, its_load), at_port in zip(ends, (port, connect_port or port), strict=True):
            both.start(role, work, name, plan, at_port, its_load)
            both.receive(role)
        time.sleep(SETTLE_S)
        both.send("go")
        during(both.pid("sender"), both.pid("receiver"))
        timeout_s = plan.duration_s + END_TIMEOUT_S
        trip = Trip(both.receive("sender", timeout_s), both.receive("receiver", timeout_s))
    if not trip.received.pairs:
        raise Failed(f"nothing of {trip.sent.pairs} pairs arrived")
    return trip


def _send(pipe: Connection, name: str, plan: Plan, port: int, load: Load) -> None:
    cv2.setNumThreads(1)
    if plan.pairs_per_s is None:
        _stay_on(0.0)
    with CONTENDERS[name].sender(port) as send:
        pipe.send("open")
        pipe.recv()
        started_cpu_s, started_ns = time.process_time(), time.monotonic_ns()
        sent = shots = 0
        for tick in _ticks(plan, started_ns):
            now_ns, view = time.monotonic_ns(), load[sent % VIEWS]
            if isinstance(view, EncodedPair):
                pair = renumbered(view, sent, now_ns)
                send(pair if plan.pairs_per_s is None else _with_own_memory(pair))
            else:
                send(encoded(*view, sent, now_ns, codec="jpeg"))
            sent, shots = sent + 1, tick + 1
    pipe.send(Sent(sent, shots - sent, started_ns, time.process_time() - started_cpu_s))


def _receive(pipe: Connection, name: str, plan: Plan, port: int, _load: None) -> None:
    cv2.setNumThreads(1)
    if plan.pairs_per_s is None:
        _stay_on(0.5)
    seen: set[int] = set()
    size_bytes, latencies_ms = 0, []
    with CONTENDERS[name].receiver(port) as arrivals:
        pipe.send("open")
        pipe.recv()
        started_cpu_s, ended_ns = time.process_time(), time.monotonic_ns()
        for arrival in arrivals:
            if plan.decoded:
                arrival.decode()
            ended_ns = time.monotonic_ns()
            seen.add(arrival.seq)
            size_bytes += arrival.size_bytes
            latencies_ms.append(1e-6 * (ended_ns - arrival.captured_ns))
        cpu_s = time.process_time() - started_cpu_s
    pipe.send(Received(len(seen), len(latencies_ms) - len(seen), size_bytes, ended_ns, cpu_s, latencies_ms))


def _stay_on(share: float) -> None:
    """Keep all threads of this process on one core.

    share: which part of the cores, because neighbours may be one physical core.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(share * len(cores))]})


def _ticks(plan: Plan, started_ns: int) -> Iterator[int]:
    """Yield the number of each shot at its time, or late by less than a period. Shots that would be later are skipped."""
    end_ns = started_ns + int(1e9 * plan.duration_s)
    period_ns = int(1e9 / plan.pairs_per_s) if plan.pairs_per_s else 0
    tick = 0
    while max(now_ns := time.monotonic_ns(), started_ns + tick * period_ns) < end_ns:
        if period_ns:
            tick = max(tick, (now_ns - started_ns) // period_ns)
            time.sleep(max(0, started_ns + tick * period_ns - now_ns) / 1e9)
        yield tick
        tick += 1


@functools.cache
def _views() -> list[Eyes]:
    return [(_view(2 * n), _view(2 * n + 1)) for n in range(VIEWS)]


@functools.cache
def _encoded_views() -> list[EncodedPair]:
    return [encoded(*eyes, codec="jpeg") for eyes in _views()]


def _with_own_memory(pair: EncodedPair) -> EncodedPair:
    """Return a copy of the pair in new memory, as a camera gives each image."""
    return EncodedPair(pair.header, bytes(bytearray(pair.left)), bytes(bytearray(pair.right)))


def _view(seed: int) -> Image:
    """Return a picture of soft colours with a sensor's noise, [H, W, 3] BGR."""
    random = np.random.default_rng(seed)
    soft = cv2.resize(random.integers(0, 256, (9, 16, 3), dtype=np.uint8), HD[::-1], interpolation=cv2.INTER_CUBIC)
    noise = cv2.GaussianBlur(random.normal(0, NOISE_SIGMA, HD).astype(np.float32), (0, 0), 1.0)
    return np.asarray(np.clip(soft + noise[..., None], 0, 255), np.uint8)
