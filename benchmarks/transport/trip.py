"""One trip of stereo pairs from a sender process to a receiver process, and what it cost each of them.

Every pair carries its number and its capture time, so the receiver knows what is missing and how old a pair is: both processes
read one machine's monotonic clock. Opening sockets and making images are done before anything is measured. At full speed each
process has one core for all its threads: left to the scheduler, a contender is twice as fast in one run as in the next.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import msgspec
import numpy as np

from benchmarks.transport.peers.contender import HOST
from benchmarks.transport.peers.lineup import CONTENDERS
from benchmarks.transport.peers.ours import DEVICE, EPOCH
from stream.codec import encode_pair
from stream.errors import StreamError
from stream.image import Image
from stream.pair import EncodedPair

SIZE = (720, 1280)
VIEWS = 4
NOISE_SIGMA = 11.7
"""Makes a JPEG of about 179 kB at the default quality: what a 720p camera gives."""
SETTLE_S = 0.5
"""After both ends are open: ZeroMQ's PUB has no way to tell that its subscriber has joined."""
LEAVE_S = 1.0
PORT_TRIES = 100
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 120.0
"""Longest wait for the end of a trip beyond its own length."""
Eyes = tuple[Image, Image]
Load = Sequence[Eyes] | Sequence[EncodedPair]
"""What is sent again and again. The parent makes it: a sender whose heap were worn by it would not grow for its queue."""


class TripError(StreamError):
    """A trip that did not come to its end; the message says on which side."""


@dataclass(frozen=True)
class Plan:
    """What the sender does."""

    duration_s: float
    pairs_per_s: float | None = None
    """The pace of the camera; None sends as fast as it goes. A camera waits for nobody: what comes while the sender is
    blocked is skipped."""
    decoded: bool = False
    """Encode in the sender and decode in the receiver; without it the JPEGs are there beforehand and stay as they come."""


@dataclass(frozen=True)
class Sent:
    """The sender's account."""

    pairs: int
    skipped: int
    """Shots that were not taken because the sender was blocked."""
    started_ns: int
    cpu_s: float


@dataclass(frozen=True)
class Received:
    """The receiver's account."""

    pairs: int
    repeated: int
    size_bytes: int
    """Of the encoded images."""
    ended_ns: int
    """When the last pair came."""
    cpu_s: float
    latencies_ms: list[float] = field(repr=False)
    """From capture to arrival, with decoding where the plan has it, in the order of arrival."""


@dataclass(frozen=True)
class Trip:
    """Both accounts of one trip."""

    sent: Sent
    received: Received

    @property
    def pairs_per_s(self) -> float:
        """Pairs that arrived, over the time from the first sending to the last arrival."""
        return self.received.pairs / (1e-9 * (self.received.ended_ns - self.sent.started_ns))

    @property
    def mb_per_s(self) -> float:
        """Encoded images that arrived, in 10^6 bytes a second."""
        return self.pairs_per_s * self.received.size_bytes / 1e6 / max(1, self.received.pairs)

    @property
    def lost(self) -> int:
        """Pairs that were sent and never came."""
        return self.sent.pairs - self.received.pairs


def free_port() -> int:
    """A TCP port of this machine that was free a moment ago, and so was the next one, where a rig answers from its spool."""
    for _ in range(PORT_TRIES):
        with socket.create_server((HOST, 0)) as listener, suppress(OSError, OverflowError):
            port: int = listener.getsockname()[1]
            socket.create_server((HOST, port + 1)).close()
            return port
    raise TripError(
        f"no two neighbouring ports were free in {PORT_TRIES} tries: end some of the programs that listen here"
    )


def travel(
    name: str,
    plan: Plan,
    *,
    port: int,
    connect_port: int | None = None,
    meanwhile: Callable[[int, int], None] = lambda _sender, _receiver: None,
) -> Trip:
    """Let a contender carry pairs as planned.

    port: where its listening end binds. connect_port: where the other end connects, where that is not the same.
    meanwhile: called once pairs flow, with the process numbers of sender and receiver.
    Raises TripError where one of the two fails or does not come to an end, or nothing arrives.
    """
    load = _views() if plan.decoded else _encoded_views()
    ends: list[tuple[str, Callable[..., None], Load | None]] = [("sender", _send, load), ("receiver", _receive, None)]
    if CONTENDERS[name].receiver_binds:
        ends.reverse()
    with closing(_Ends()) as both:
        for (role, work, its_load), at_port in zip(ends, (port, connect_port or port), strict=True):
            both.start(role, work, name, plan, at_port, its_load)
        time.sleep(SETTLE_S)
        both.go()
        meanwhile(both.pid("sender"), both.pid("receiver"))
        timeout_s = plan.duration_s + END_TIMEOUT_S
        trip = Trip(both.result("sender", timeout_s), both.result("receiver", timeout_s))
    if not trip.received.pairs:
        raise TripError(f"nothing of {trip.sent.pairs} pairs arrived")
    return trip


class _Ends:
    """The two processes and a pipe to each: they say when they are open, are told to go, and say how it went."""

    def __init__(self) -> None:
        self._spawn = multiprocessing.get_context("spawn")  # nothing of this process: its threads, its sockets
        self._ends: dict[str, tuple[BaseProcess, Connection]] = {}

    def start(self, role: str, work: Callable[..., None], *arguments: object) -> None:
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(target=_work, args=(work, theirs, *arguments), daemon=True)
        process.start()
        theirs.close()
        self._ends[role] = (process, ours)
        self.result(role, START_TIMEOUT_S)

    def go(self) -> None:
        for _process, pipe in self._ends.values():
            pipe.send("go")

    def pid(self, role: str) -> int:
        return self._ends[role][0].pid or 0

    def result(self, role: str, timeout_s: float) -> Any:
        pipe = self._ends[role][1]
        if not pipe.poll(timeout_s):
            raise TripError(f"the {role} did not come to its end within {timeout_s:.0f} s")
        try:
            result = pipe.recv()
        except EOFError:
            raise TripError(f"the {role} ended without a word") from None
        if isinstance(result, TripError):
            raise TripError(f"the {role} failed: {result}")
        return result

    def close(self) -> None:
        for process, pipe in self._ends.values():
            process.join(LEAVE_S)  # one that has failed still removes its files
            process.kill()
            process.join()
            pipe.close()


def _work(work: Callable[..., None], pipe: Connection, *arguments: object) -> None:
    """A process of one end: what it prints goes to the standard error, how it fails to its parent."""
    os.dup2(sys.stderr.fileno(), 1)
    logging.disable(logging.INFO)
    cv2.setNumThreads(1)
    try:
        work(pipe, *arguments)
    except Exception as error:  # whatever a contender raises: it is named in the figures
        pipe.send(TripError(f"{type(error).__name__}: {error}"))


def _send(pipe: Connection, name: str, plan: Plan, port: int, load: Load) -> None:
    if plan.pairs_per_s is None:
        _stay_on(0.0)
    sender = CONTENDERS[name].sender(port)
    pipe.send("open")
    pipe.recv()
    started_cpu_s, started_ns = _cpu_s(), time.monotonic_ns()
    sent = shots = 0
    for tick in _ticks(plan, started_ns):
        now_ns, view = time.monotonic_ns(), load[sent % VIEWS]
        if isinstance(view, EncodedPair):
            sender.send(_numbered(view, sent, now_ns, fresh=plan.pairs_per_s is not None))
        else:
            sender.send(_encoded(view, sent, now_ns))
        sent, shots = sent + 1, tick + 1
    sender.end()
    pipe.send(Sent(sent, shots - sent, started_ns, _cpu_s() - started_cpu_s))


def _receive(pipe: Connection, name: str, plan: Plan, port: int, _load: None) -> None:
    if plan.pairs_per_s is None:
        _stay_on(0.5)
    receiver = CONTENDERS[name].receiver(port)
    pipe.send("open")
    pipe.recv()
    started_cpu_s, ended_ns = _cpu_s(), time.monotonic_ns()
    seen: set[int] = set()
    size_bytes = came = 0
    latencies_ms = []
    for arrival in receiver.arrivals():
        if plan.decoded:
            arrival.decode()
        ended_ns = time.monotonic_ns()
        came += 1
        seen.add(arrival.seq)
        size_bytes += arrival.size_bytes
        latencies_ms.append(1e-6 * (ended_ns - arrival.captured_ns))
    cpu_s = _cpu_s() - started_cpu_s
    pipe.send(Received(len(seen), came - len(seen), size_bytes, ended_ns, cpu_s, latencies_ms))


def _stay_on(share: float) -> None:
    """Keep all threads of this process on one core; half the cores apart, because neighbours may be one real core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(share * len(cores))]})


def _ticks(plan: Plan, started_ns: int) -> Iterator[int]:
    """The number of each shot, at its moment or late by less than a period; a shot that would be later is never taken."""
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
    return [_encoded(eyes, 0, 0) for eyes in _views()]


def _encoded(eyes: Eyes, seq: int, now_ns: int) -> EncodedPair:
    return encode_pair(*eyes, device=DEVICE, epoch=EPOCH, seq=seq, left_ns=now_ns, right_ns=now_ns)


def _numbered(pair: EncodedPair, seq: int, now_ns: int, *, fresh: bool) -> EncodedPair:
    """The same images as another pair; `fresh` gives it memory of its own, as a camera does."""
    header = msgspec.structs.replace(pair.header, seq=seq, left_ns=now_ns, right_ns=now_ns)
    left, right = (bytes(bytearray(data)) if fresh else data for data in (pair.left, pair.right))
    return EncodedPair(header, left, right)


def _view(seed: int) -> Image:
    """Soft colours under a sensor's noise, [H, W, 3] BGR."""
    random = np.random.default_rng(seed)
    soft = cv2.resize(random.integers(0, 256, (9, 16, 3), dtype=np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    noise = cv2.GaussianBlur(random.normal(0, NOISE_SIGMA, SIZE).astype(np.float32), (0, 0), 1.0)
    return np.asarray(np.clip(soft + noise[..., None], 0, 255), np.uint8)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
