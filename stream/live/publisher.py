"""The sending end of the live stream: a bound XPUB socket with short queues.

A queue holds `high_water` pairs per subscriber, not ZeroMQ's default of 1000 (358 MB at 720p). `on_full` decides what happens
when it is full. A subscriber that vanished without closing its connection (Wi-Fi roaming) is dropped within a minute.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import zmq

from stream import codec
from stream.closeable import Closeable
from stream.errors import EndpointError
from stream.live import announcements, backfill_server
from stream.live.announcements import Announcement, Bye, Hello, Subscriptions
from stream.live.backfill_messages import Shelf, Vitals
from stream.live.backfill_server import BackfillServer
from stream.pair import EncodedPair
from stream.transport.acceptor import Acceptor
from stream.transport.crowd import Bounds
from stream.transport.endpoint import bind, bind_address, bind_with_neighbour
from stream.transport.security import Security
from stream.transport.sockets import LEARNER_TIMEOUT_MS, limit_silence, receive

log = logging.getLogger(__name__)

LIVE_TOS = 0x88
"""DSCP AF41: Wi-Fi sends it as video, before the replies of the spool."""
MAX_SUBSCRIPTION_BYTES = 1024
"""Largest message of a subscriber, and of its handshake."""
QUEUED_BYTES = 64 << 20
"""Most bytes of pairs in the queues of all subscribers, where a pair in several queues counts once. One full queue is always
allowed. Beyond it, the subscriber that is behind for longest is cut off."""
EXCESS_BYTES = 16 << 20
"""Beyond it by so much, a pair is dropped."""
TRACKED_BYTES = 1 << 20
"""Of so many bytes of pairs, one part tells when it is free; each costs some 50 microseconds."""
FULL_S = 0.01
"""Seconds between two looks at queues that hold too much."""
_BOUNDS = Bounds(pending_bytes=16 << 10, all_pending_bytes=1 << 20)
"""A learner sends a handshake and two or three subscriptions, of less than 2 kB together."""
MAX_SUBSCRIPTIONS_AT_ONCE = 256
"""Most subscriptions that are read between two pairs, so that a flood of them cannot delay the stream."""


class Publisher(Closeable):
    """Sends pairs to its subscribers; used by one thread, as a context manager.

    endpoint: tcp://HOST:PORT; `self.endpoint` is the real one if the port was 0 or *.
    device, epoch: of all its pairs, as in `Header`.
    shelf: from which consumers pull dropped pairs, at the next port (`self.backfill`); None: a dropped pair is lost.
    vitals: reads the state of the rig, for consumers that ask the shelf; called by another thread.
    on_full: "drop" leaves a pair out for a subscriber whose queue is full, and never waits: for live streams. "wait" waits up
    to `wait_s` for a subscriber and for room in every subscriber's queue: for finite sources at full speed.
    security: the keys of this rig and those it lets in (`stream.transport.endpoint.security_for`); None: plain.
    linger_s: how long `bye` waits for confirmations, and `close` for queued pairs to be sent.
    Raises EndpointError for an endpoint that cannot be bound, or is open to the network without keys or `insecure`.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        device: str,
        epoch: str,
        on_full: Literal["drop", "wait"] = "drop",
        high_water: int = 32,
        wait_s: float = 30.0,
        shelf: Shelf | None = None,
        vitals: Callable[[], Vitals] = Vitals,
        security: Security | None = None,
        insecure: bool = False,
        linger_s: float = 5.0,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        address = bind_address(endpoint, security=security, insecure=insecure)
        self.device = device
        self.epoch = epoch
        self.next_seq = 0
        """One past the last pair given to `send`; a bye carries it."""
        self.sent = 0
        """Pairs handed to at least one subscriber's queue."""
        self._hello_seq = 0  # of the next hello; in "wait" a pair that no queue took may be given again
        self._waits = on_full == "wait"
        self._wait_s = wait_s
        self._linger_s = linger_s
        self._owes_hello = False
        self._subscriptions = Subscriptions(codec.TOPIC)
        self._queued = _Queued(high_water)
        self._context = context if context is not None else zmq.Context()
        self._owns_context = context is None
        self._acceptor = Acceptor(self._context, security)
        self._socket = self._open(high_water)
        self.backfill: BackfillServer | None = None
        try:
            self._gate = self._acceptor.guard(self._socket, _BOUNDS)
            if shelf is None:
                self.endpoint = bind(self._socket, address)
            else:
                serve = partial(self._serve, shelf, vitals)
                self.endpoint, self.backfill = bind_with_neighbour(self._socket, address, serve)
        except BaseException:
            self.close()
            raise

    def begin(self, epoch: str, seq: int) -> None:
        """Announce that the following pairs begin with number `seq` of another epoch: the device was started again."""
        self.epoch = epoch
        self._hello_seq = self.next_seq = seq
        self._owes_hello = True

    def send(self, pair: EncodedPair) -> bool:
        """Send one pair; return whether at least one subscriber's queue took it. `on_full` decides how long it waits.

        With "drop", a subscriber whose queue is full misses the pair, and finds the hole itself. With "wait", the same pair may
        be sent again after False; if the next pair is sent instead, the numbers have a hole.
        """
        header = pair.header
        if (header.device, header.epoch) != (self.device, self.epoch):
            raise ValueError(f"{header.name} is not a pair of {self.device}/{self.epoch[:8]}")
        self._hello_seq = header.seq
        listened = self.wait_for_subscriber(self._wait_s if self._waits else 0.0)
        taken = listened and self._send(pair)
        self.next_seq = header.seq + 1
        if taken or not self._waits:
            self._hello_seq = self.next_seq
        self.sent += taken
        return taken

    def subscribers(self) -> int:
        """Count the subscribers, and greet the new ones. Call it now and then while nothing is sent."""
        self._greet()
        return self._subscriptions.count

    def failed_handshakes(self) -> Mapping[str, int]:
        """Return the handshakes that failed so far, by reason of `stream.transport.handshake.REASONS`. Any thread may call it."""
        return dict(self._acceptor.failures.counts)

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Wait for a subscriber; return False if none joined within `timeout_s`."""
        return self._wait_until(lambda: self.subscribers() > 0, time.monotonic() + timeout_s)

    def bye(self) -> bool:
        """Announce the end of the stream; return whether all subscribers confirmed within `linger_s` that they have every pair.

        The confirmation is needed because a queue that drains after `close` can be lost: any message to the closed socket makes
        the kernel reset the connection. If there is a shelf, a subscriber that missed the bye learns it from there.
        """
        if self.backfill is not None:
            self.backfill.over = True
        self._greet()
        self._socket.set(zmq.XPUB_NODROP, 1)
        deadline_s = time.monotonic() + self._linger_s
        sent = self._announce(Bye, self.next_seq, self._linger_s)
        # `subscribers` comes first, because it also reads the confirmations.
        return sent and self._wait_until(lambda: self.subscribers() <= self._subscriptions.confirmed, deadline_s)

    def close(self) -> None:
        """Let queued pairs leave for up to `linger_s`, then free the port; idempotent."""
        self._socket.close(linger=int(1000 * self._linger_s))
        if self.backfill is not None:
            self.backfill.close()
        self._acceptor.close()
        if self._owns_context:
            self._context.term()

    def _serve(self, shelf: Shelf, vitals: Callable[[], Vitals], address: str) -> BackfillServer:
        router = self._context.socket(zmq.ROUTER)
        gate = self._acceptor.guard(router, backfill_server.BOUNDS)
        try:
            return BackfillServer(router, address, shelf, gate, vitals=vitals)
        except EndpointError:
            router.close()
            raise

    def _open(self, high_water: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.XPUB)
        socket.set(zmq.SNDHWM, high_water)
        socket.set(zmq.XPUB_NODROP, int(self._waits))
        socket.set(zmq.XPUB_VERBOSER, 1)  # report every subscription, not only the first of a topic
        socket.set(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES)
        socket.set(zmq.TOS, LIVE_TOS)
        limit_silence(socket, LEARNER_TIMEOUT_MS)
        return socket

    def _wait_until(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        """Wait for messages of subscribers until the condition holds; returns False if it did not by the deadline."""
        while not condition():
            left_ms = int(1000 * (deadline_s - time.monotonic()))
            if left_ms <= 0:
                return False
            self._socket.poll(left_ms)
        return True

    def _put(self, parts: Sequence[bytes | zmq.Frame], wait_s: float) -> bool:
        """Hand a message to all queues; return False if there was no room within `wait_s` seconds.

        A socket that may drop messages never waits.
        """
        self._socket.set(zmq.SNDTIMEO, int(1000 * wait_s))
        try:
            self._socket.send_multipart(parts, copy=False)  # the bytes are immutable: ZeroMQ may read them later
        except zmq.Again:
            return False
        return True

    def _greet(self) -> None:
        """Count the subscribers that joined and left, and send a hello. It reaches all of them, but only new ones need it."""
        for _ in range(MAX_SUBSCRIPTIONS_AT_ONCE):
            try:
                message = receive(self._socket, max_parts=1)
            except zmq.Again:
                break
            self._gate.delivered(message)
            if not self._subscriptions.knows(message.parts[0], self.epoch):
                self._gate.holds_topic(message)
            change = self._subscriptions.read(message.parts[0], self.epoch)
            self._owes_hello |= change > 0
            if change:
                log.info("subscriber %s device=%s", "joined" if change > 0 else "left", self.device)
        if self._owes_hello:
            self._owes_hello = not self._announce(Hello, self._hello_seq, 0.0)

    def _send(self, pair: EncodedPair) -> bool:
        size_bytes = pair.size_bytes
        if not self._queued.has_room(size_bytes, self._wait_s if self._waits else None, self._gate.cut_stuck):
            return False
        *parts, right = codec.to_parts(pair)
        return self._put([*parts, self._queued.tracked(right, size_bytes)], self._wait_s)

    def _announce(self, kind: type[Announcement], next_seq: int, wait_s: float) -> bool:
        has_spool = self.backfill is not None
        announcement = kind(device=self.device, epoch=self.epoch, next_seq=next_seq, backfill=has_spool)
        return self._put(announcements.to_parts(announcement), wait_s)


class _Queued:
    """Counts the bytes of the pairs that ZeroMQ holds. high_water: most pairs in one queue."""

    def __init__(self, high_water: int) -> None:
        self._pairs: deque[tuple[zmq.MessageTracker, int]] = deque()
        self._bytes = self._untracked_bytes = 0
        self._full_queue = high_water + 2

    def tracked(self, right: bytes, size_bytes: int) -> bytes | zmq.Frame:
        """Count a pair and return its last part; the part of every TRACKED_BYTES tells when ZeroMQ has freed it."""
        self._bytes += size_bytes
        self._untracked_bytes += size_bytes
        if self._untracked_bytes < TRACKED_BYTES:
            return right
        frame = zmq.Frame(right, track=True, copy=False, copy_threshold=0)
        self._pairs.append((frame.tracker, self._untracked_bytes))
        self._untracked_bytes = 0
        return frame

    def has_room(self, size_bytes: int, wait_s: float | None, cut_stuck: Callable[[], None]) -> bool:
        """Return whether a pair of this size may be sent. wait_s: how long to wait for room; None: make room by `cut_stuck`."""
        deadline_s = time.monotonic() + (wait_s or 0.0)
        while (excess_bytes := self._excess_bytes(size_bytes)) > 0:
            if wait_s is None:
                cut_stuck()
                return excess_bytes <= EXCESS_BYTES
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(FULL_S)
        return True

    def _excess_bytes(self, size_bytes: int) -> int:
        while self._pairs and self._pairs[0][0].done:
            self._bytes -= self._pairs.popleft()[1]
        bound_bytes = max(QUEUED_BYTES, self._full_queue * size_bytes)
        if self._bytes + size_bytes > bound_bytes:  # perhaps only the oldest pairs are still held
            self._pairs = deque(one for one in self._pairs if not one[0].done)
            self._bytes = self._untracked_bytes + sum(size for _, size in self._pairs)
        return self._bytes + size_bytes - bound_bytes
