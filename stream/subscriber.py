"""The receiving end: a Source over one SUB socket, with a bounded queue and an account of what was lost.

A thread takes messages off the socket, so that the learner never waits for the network while pairs lie there. When the
queue is full it stops reading: ZeroMQ's queue fills, then TCP pushes back, then the device drops, and the hole in `seq`
is counted here. Memory is bounded at each of these steps.

Liveness: a side that has stopped reading does not read heartbeats either, and ZeroMQ would take its own slowness for a
dead peer and throw the connection away with all that is queued in it. So this side pings, but the answer is left to the
kernel (TCP_MAXRT: pings not acknowledged by TCP for 6 s mean a dead link); the publisher drops us if our pings stop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import zmq

from stream import codec, control
from stream.arrivals import Arrivals, SubscriberStats
from stream.control import Bye, Hello
from stream.endpoint import (
    HEARTBEAT_IVL_MS,
    HEARTBEAT_TIMEOUT_MS,
    RECONNECT_IVL_MAX_MS,
    RECONNECT_IVL_MS,
    connect,
    connect_address,
)
from stream.errors import EndOfStream, MalformedMessage, StreamError
from stream.pair import MAX_EYE_BYTES, EncodedPair

log = logging.getLogger(__name__)

MAX_PARTS = 4
POLL_S = 0.1
"""How soon the thread notices that it is to stop."""
LOG_INTERVAL_S = 10.0
"""At most one line an interval and reason: a broken device must not fill a disk with log lines."""


class Subscriber:
    """Receives the pairs of one or several devices; satisfies `stream.source.Source`. Context manager.

    endpoints: tcp://HOST:PORT of each device; none has to be there yet, and each is reconnected to when it comes back.
    capacity_pairs, capacity_bytes: of the queue; the pair that reaches a bound still enters.
    high_water: messages that ZeroMQ holds for each endpoint before TCP pushes back.
    end_on_bye: `receive` raises EndOfStream once the queue is empty and all devices (one an endpoint or more) said bye.
    clock: seconds, monotonic; only for `last_received_s` and the rate of log lines.
    Raises EndpointError where an endpoint is malformed.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        capacity_pairs: int = 512,
        capacity_bytes: int = 256 << 20,
        high_water: int = 32,
        end_on_bye: bool = False,
        insecure: bool = False,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if isinstance(endpoints, str) or not endpoints or capacity_pairs < 1 or capacity_bytes < 1:
            raise ValueError(
                f"expected a list of endpoints and a capacity of at least 1 pair and 1 byte; "
                f"got {endpoints!r}, {capacity_pairs}, {capacity_bytes}"
            )
        addresses = [connect_address(endpoint, insecure=insecure) for endpoint in endpoints]
        self.endpoints = tuple(addresses)
        self._capacity_pairs = capacity_pairs
        self._capacity_bytes = capacity_bytes
        self._devices_to_end = len(addresses) if end_on_bye else None
        self._clock = clock
        self._arrivals = Arrivals()
        self._queue: deque[EncodedPair] = deque()
        self._queued_bytes = 0
        self._failure: Exception | None = None
        self._closing = False
        self._logged_s: dict[str, float] = {}
        self._changed = threading.Condition()  # guards all of the above
        self._context = context if context is not None else zmq.Context()
        self._owns_context = context is None
        self._socket = _open(self._context, high_water)
        try:
            for address in addresses:
                connect(self._socket, address)
        except BaseException:
            self._free()
            raise
        self._thread = threading.Thread(target=self._run, name="subscriber", daemon=True)
        self._thread.start()

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        """See Source. Raises StreamError where receiving itself has failed, after the pairs that came before that."""
        if limit < 1:
            raise ValueError(f"limit must be at least 1 pair, got {limit}")
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_over(), timeout_s)
            pairs = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
            self._queued_bytes -= sum(_size(pair) for pair in pairs)
            self._changed.notify_all()
            if pairs:
                return pairs
            if self._failure is not None:
                raise StreamError(f"receiving has stopped: {self._failure}") from self._failure
            if self._is_over():
                raise EndOfStream("the subscriber is closed" if self._closing else "every device has said bye")
            return []

    def backlog(self) -> int:
        """Pairs that wait in the queue."""
        return len(self._queue)

    def stats(self) -> SubscriberStats:
        """What came so far; received pairs include those that wait in the queue."""
        with self._changed:
            return self._arrivals.stats()

    def close(self) -> None:
        """Stop receiving and free the socket; idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._free()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_over(self) -> bool:
        ended = self._devices_to_end is not None and self._arrivals.all_ended(self._devices_to_end)
        return ended or self._closing or self._failure is not None

    def _has_room(self) -> bool:
        return len(self._queue) < self._capacity_pairs and self._queued_bytes < self._capacity_bytes

    def _run(self) -> None:
        """The thread: until closed, wait for room, then for a message."""
        try:
            while not self._closing:
                with self._changed:
                    room = self._changed.wait_for(lambda: self._has_room() or self._closing, POLL_S)
                if room and not self._closing:
                    self._receive_one()
        except Exception as error:  # it ends here and is raised by `receive`
            log.exception("receiving has stopped")
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _receive_one(self) -> None:
        try:
            parts = _receive_parts(self._socket)
        except zmq.Again:
            return
        now_s = self._clock()
        try:
            message = _read(parts)  # the checksum is the work here: outside the lock
            with self._changed:
                self._take(message, now_s)
                self._changed.notify_all()
        except MalformedMessage as error:
            with self._changed:
                self._arrivals.malformed(error.reason)
                self._log_malformed(error, now_s)

    def _take(self, message: EncodedPair | Hello | Bye, now_s: float) -> None:
        match message:
            case Hello():
                self._arrivals.hello(message)
            case Bye():
                self._arrivals.bye(message)
            case EncodedPair():
                if self._arrivals.pair(message, now_s):
                    self._queue.append(message)
                    self._queued_bytes += _size(message)

    def _log_malformed(self, error: MalformedMessage, now_s: float) -> None:
        last_s = self._logged_s.get(error.reason)
        if last_s is None or now_s - last_s >= LOG_INTERVAL_S:
            self._logged_s[error.reason] = now_s
            log.warning("message dropped: %s count=%d", error, self._arrivals.stats().malformed[error.reason])

    def _free(self) -> None:
        self._socket.close(linger=0)
        if self._owns_context:
            self._context.term()


def _open(context: zmq.Context[zmq.Socket[bytes]], high_water: int) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.SUB)
    socket.set(zmq.RCVHWM, high_water)
    socket.set(zmq.RCVTIMEO, int(1000 * POLL_S))
    socket.set(zmq.MAXMSGSIZE, MAX_EYE_BYTES)  # ZeroMQ drops a connection that sends more, before taking memory for it
    socket.set(zmq.RECONNECT_IVL, RECONNECT_IVL_MS)
    socket.set(zmq.RECONNECT_IVL_MAX, RECONNECT_IVL_MAX_MS)
    socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_IVL_MS)
    socket.set(zmq.HEARTBEAT_TIMEOUT, 0)
    socket.set(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
    socket.set(zmq.TCP_MAXRT, HEARTBEAT_TIMEOUT_MS)
    socket.set(zmq.SUBSCRIBE, b"")
    return socket


def _receive_parts(socket: zmq.Socket[bytes]) -> list[bytes]:
    """One message; of the parts beyond MAX_PARTS only one is kept, which is enough to refuse it.

    Each part is copied once, out of ZeroMQ's memory: 0.04 ms for the 358 kB of a 720p pair.
    """
    parts = [socket.recv()]
    while socket.get(zmq.RCVMORE):
        part = socket.recv()
        if len(parts) <= MAX_PARTS:
            parts.append(part)
    return parts


def _read(parts: list[bytes]) -> EncodedPair | Hello | Bye:
    return control.from_parts(parts) if parts[0] in control.TOPICS else codec.from_parts(parts)


def _size(pair: EncodedPair) -> int:
    return len(pair.left) + len(pair.right)
