"""The receiving end: a Source over the live stream of each rig, and over its spool for what the live stream dropped.

A thread takes messages off the sockets, so that the learner never waits for the network while pairs lie there. When the
queue is full it stops reading: ZeroMQ's queue fills, then TCP pushes back, then the rig drops, and the hole in `seq` is
pulled from its spool when there is room again. Memory is bounded at each of these steps. Live pairs go first: an answer
from a spool is read only when no live message waits. `stream.live.ledger` says which pairs are new and which are missing.

Liveness is the kernel's work (`stream.transport.keepalive`): it answers for a learner that rests, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

import zmq

from stream import codec
from stream.errors import EndOfStream, MalformedMessage, StreamError
from stream.live import announcements
from stream.live.announcements import Bye, Hello
from stream.live.backfill_client import HIGH_WATER, BackfillClient
from stream.live.backfill_server import backfill_endpoint
from stream.live.ledger import Ledger
from stream.pair import MAX_EYE_BYTES, EncodedPair
from stream.source import Cursor
from stream.stats import SourceStats
from stream.transport.dialer import Dialer
from stream.transport.endpoint import (
    CONNECT_TIMEOUT_MS,
    LINK_TIMEOUT_MS,
    RECONNECT_IVL_MAX_MS,
    RECONNECT_IVL_MS,
    connect_address,
)
from stream.transport.keepalive import watch_link
from stream.transport.security import CURVE_OVERHEAD_BYTES, Security

_T = TypeVar("_T")

log = logging.getLogger(__name__)

MAX_PARTS = 4
POLL_S = 0.05
"""How soon the thread notices that it is to stop, or that a question is due."""
LIVE_AT_ONCE = 64
"""Live messages read before the spools get a turn."""
FAREWELL_S = 2.0
"""How long `close` waits for rigs to confirm the last acknowledgement."""
TEND_INTERVAL_S = 0.25
MAX_PART_BYTES = MAX_EYE_BYTES + CURVE_OVERHEAD_BYTES
GLIBC_BLOCK_BYTES = 31 << 20
"""Taking and freeing a block of nearly 32 MiB once makes glibc keep freed images for the next ones instead of giving each
back to the system: 32 page faults a pair less, a sixth of the receiver's time."""
LOG_INTERVAL_S = 10.0
"""At most one line an interval and reason: a broken device must not fill a disk with log lines."""


class Subscriber:
    """Receives the pairs of one or several devices; satisfies `stream.source.Source`. Context manager.

    endpoints: tcp://HOST:PORT of each device; none has to be there yet, and each is reconnected to when it comes back.
    consumer: this learner's name to the rigs' spools, which keep every pair until it is acknowledged; None: they do not.
    cursor: of the process before this one; what it names does not come again. Raises ValueError where it is none.
    capacity_pairs, capacity_bytes: of the queue; the pair that reaches a bound still enters, and so does the answer of a
    spool (1 MiB and a pair, at most 256 pairs).
    high_water: messages that ZeroMQ holds for each endpoint before TCP pushes back.
    end_on_bye: `receive` raises EndOfStream once all devices (one an endpoint or more) said bye and nothing is missing.
    security: our keys and those of the rigs (`stream.transport.endpoint.security_for`); None: plain.
    clock: seconds, monotonic; of `last_received_s`.
    Raises EndpointError where an endpoint is malformed.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        consumer: str | None = None,
        cursor: Cursor | None = None,
        capacity_pairs: int = 512,
        capacity_bytes: int = 32 << 20,
        high_water: int = 32,
        end_on_bye: bool = False,
        security: Security | None = None,
        insecure: bool = False,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if isinstance(endpoints, str) or not endpoints or capacity_pairs < 1 or capacity_bytes < 1:
            raise ValueError(
                f"expected a list of endpoints and a capacity of at least 1 pair and 1 byte; "
                f"got {endpoints!r}, {capacity_pairs}, {capacity_bytes}"
            )
        addresses = [connect_address(endpoint, security=security, insecure=insecure) for endpoint in endpoints]
        self.endpoints = tuple(addresses)
        self._capacity_pairs = capacity_pairs
        self._capacity_bytes = capacity_bytes
        self._devices_to_end = len(addresses) if end_on_bye else None
        self._clock = clock
        self._ledger = Ledger(cursor)
        self._before = self._ledger.stats().devices
        self._acknowledged: Cursor | None = None
        self._queue: deque[EncodedPair] = deque()
        self._queued_bytes = 0
        self._failure: Exception | None = None
        self._closing = False
        self._logged_s: dict[str, float] = {}
        self._changed = threading.Condition()  # guards all of the above
        self._context = context if context is not None else zmq.Context()
        self._owns_context = context is None
        self._socket = _open(self._context, high_water)
        self._dialers = [Dialer(self._socket, security=security)]
        self._tended_s = float("-inf")
        self._spools: list[BackfillClient] = []
        try:
            for place, address in enumerate(addresses):
                self._dialers[0].dial(address)
                dealer = _open_dealer(self._context)
                self._spools.append(BackfillClient(dealer, place, consumer or "", cursor, clock))
                self._dialers.append(Dialer(dealer, security=security))
                self._dialers[-1].dial(backfill_endpoint(address))
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
            self._ledger.deliver(pairs)
            self._queued_bytes -= sum(_size(pair) for pair in pairs)
            self._changed.notify_all()
            if pairs:
                return pairs
            if self._failure is not None:
                raise StreamError(f"receiving has stopped: {self._failure}") from self._failure
            if self._is_over():
                raise EndOfStream("the subscriber is closed" if self._closing else "every device has said bye")
            return []

    def cursor(self) -> Cursor:
        """See Source."""
        with self._changed:
            return self._ledger.cursor()

    def acknowledge(self, cursor: Cursor) -> None:
        """See Source: the rigs are told soon, and again until they confirm it."""
        with self._changed:
            self._acknowledged = cursor

    def backlog(self) -> int:
        """Pairs that wait in the queue."""
        return len(self._queue)

    def stats(self) -> SourceStats:
        """What came so far; received pairs include those that wait in the queue."""
        failures = Counter[str]()
        for dialer in self._dialers:
            failures.update(dialer.failures())
        with self._changed:
            return replace(
                self._ledger.stats(),
                failed_handshakes=dict(failures),
                before=self._before,
                endpoints=self.endpoints,
            )

    def close(self) -> None:
        """Stop receiving, tell the rigs the last acknowledgement, and free the sockets; idempotent."""
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
        ended = self._devices_to_end is not None and self._ledger.all_ended(self._devices_to_end)
        return ended or self._closing or self._failure is not None

    def _has_room(self) -> bool:
        return len(self._queue) < self._capacity_pairs and self._queued_bytes < self._capacity_bytes

    def _run(self) -> None:
        """The thread: until closed, live messages first, then the spools; without room neither brings pairs."""
        bytearray(GLIBC_BLOCK_BYTES)
        try:
            poller = zmq.Poller()
            for socket in (self._socket, *(spool.socket for spool in self._spools)):
                poller.register(socket, zmq.POLLIN)
            while not self._closing:
                with self._changed:
                    room = self._changed.wait_for(lambda: self._has_room() or self._closing, POLL_S)
                if room:
                    poller.poll(int(1000 * POLL_S))
                    self._receive_live()
                self._turn_to_spools()
                self._tend_connections()
            self._say_farewell()
        except Exception as error:  # it ends here and is raised by `receive`
            log.exception("receiving has stopped")
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _receive_live(self) -> None:
        for _ in range(LIVE_AT_ONCE):
            try:
                parts = _receive_parts(self._socket)
            except zmq.Again:
                return
            self._guarded(self._take, parts)
            if not self._has_room():
                return

    def _tend_connections(self) -> None:
        """Now and then hear what became of the connections."""
        now_s = time.monotonic()
        if now_s - self._tended_s >= TEND_INTERVAL_S:
            self._tended_s = now_s
            for dialer in self._dialers:
                dialer.tend()

    def _turn_to_spools(self) -> None:
        """Each spool's answer, and its next question."""
        with self._changed:
            cursor, self._acknowledged = self._acknowledged, None
            if cursor is not None:
                for spool in self._spools:
                    spool.acknowledge(self._ledger, cursor)
        for spool in self._spools:
            if self._has_room():
                self._guarded(self._take_answer, spool)
            with self._changed:
                spool.ask(self._ledger, has_room=self._has_room() and not self._closing)

    def _say_farewell(self) -> None:
        deadline_s = time.monotonic() + FAREWELL_S
        with self._changed:
            self._queue.clear()
            self._queued_bytes = 0
        while time.monotonic() < deadline_s:
            self._turn_to_spools()
            if not any(spool.owes_acknowledgement for spool in self._spools):
                return
            time.sleep(POLL_S / 10)

    def _guarded(self, take: Callable[[_T], None], what: _T) -> None:
        """Take a message; one that is malformed is dropped, counted and said."""
        try:
            take(what)
        except MalformedMessage as error:
            self._refuse(error)

    def _refuse(self, error: MalformedMessage) -> None:
        with self._changed:
            self._ledger.count_malformed(error.reason)
            self._log_malformed(error, self._clock())

    def _take(self, parts: list[bytes]) -> None:
        message, now_s = _read(parts), self._clock()  # the checksum is the work here: outside the lock
        with self._changed:
            match message:
                case Hello():
                    self._ledger.receive_hello(message, now_s)
                case Bye():
                    self._ledger.receive_bye(message, now_s)
                    self._confirm(message)
                case EncodedPair():
                    if self._ledger.receive(message, now_s):
                        self._enqueue([message])
            self._changed.notify_all()

    def _confirm(self, bye: Bye) -> None:
        """Let the publisher know that everything up to its bye has been heard."""
        topic = announcements.CONFIRMATION + bye.epoch.encode()
        self._socket.set(zmq.SUBSCRIBE, topic)
        self._socket.set(zmq.UNSUBSCRIBE, topic)  # or each epoch would leave one behind

    def _take_answer(self, spool: BackfillClient) -> None:
        answered = spool.receive()
        if answered is None:
            return
        for error in answered.refused:
            self._refuse(error)
        with self._changed:
            self._enqueue(spool.take(answered, self._ledger))
            self._changed.notify_all()

    def _enqueue(self, pairs: Sequence[EncodedPair]) -> None:
        if self._closing:
            return
        self._queue.extend(pairs)
        self._queued_bytes += sum(_size(pair) for pair in pairs)

    def _log_malformed(self, error: MalformedMessage, now_s: float) -> None:
        last_s = self._logged_s.get(error.reason)
        if last_s is None or now_s - last_s >= LOG_INTERVAL_S:
            self._logged_s[error.reason] = now_s
            log.warning("message dropped: %s count=%d", error, self._ledger.stats().malformed[error.reason])

    def _free(self) -> None:
        for dialer in self._dialers:
            dialer.close()
        self._socket.close(linger=0)
        for spool in self._spools:
            spool.socket.close(linger=0)
        if self._owns_context:
            self._context.term()


def _open(context: zmq.Context[zmq.Socket[bytes]], high_water: int) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.SUB)
    socket.set(zmq.RCVHWM, high_water)
    _keep_alive(socket)
    socket.set(zmq.SUBSCRIBE, b"")
    return socket


def _open_dealer(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.RCVHWM, HIGH_WATER)
    socket.set(zmq.SNDHWM, HIGH_WATER)
    socket.set(zmq.IMMEDIATE, 1)  # a question to a rig that is away is not kept for later
    _keep_alive(socket)
    return socket


def _keep_alive(socket: zmq.Socket[bytes]) -> None:
    socket.set(zmq.MAXMSGSIZE, MAX_PART_BYTES)  # ZeroMQ drops a connection that sends more, before taking memory for it
    socket.set(zmq.RECONNECT_IVL, RECONNECT_IVL_MS)
    socket.set(zmq.RECONNECT_IVL_MAX, RECONNECT_IVL_MAX_MS)
    socket.set(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
    watch_link(socket, LINK_TIMEOUT_MS)


def _receive_parts(socket: zmq.Socket[bytes]) -> list[bytes]:
    """One message; of the parts beyond MAX_PARTS only one is kept, which is enough to refuse it.

    Each part is copied once, out of ZeroMQ's memory: 0.04 ms for the 358 kB of a 720p pair.
    """
    parts = [socket.recv(zmq.NOBLOCK)]
    while socket.get(zmq.RCVMORE):
        part = socket.recv()
        if len(parts) <= MAX_PARTS:
            parts.append(part)
    return parts


def _read(parts: list[bytes]) -> EncodedPair | Hello | Bye:
    return announcements.from_parts(parts) if parts[0] in announcements.TOPICS else codec.from_parts(parts)


def _size(pair: EncodedPair) -> int:
    return len(pair.left) + len(pair.right)
