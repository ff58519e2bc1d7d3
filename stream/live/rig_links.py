"""The sockets of a subscriber: two for each rig, one for its live stream and one for its spool."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import zmq

from stream import codec
from stream.errors import MalformedMessage
from stream.failures import Failures
from stream.image import MAX_EYE_BYTES
from stream.live import announcements
from stream.live.announcements import Announcement, Bye
from stream.live.backfill_client import HIGH_WATER, BackfillClient
from stream.live.backfill_plan import BackfillPlan
from stream.pair import EncodedPair
from stream.transport.crowd import Bounds
from stream.transport.dialer import Dialer
from stream.transport.endpoint import backfill_endpoint
from stream.transport.gate import SWEEP_S, Gate
from stream.transport.handshake import LOG_INTERVAL_S, REASONS
from stream.transport.security import CURVE_OVERHEAD_BYTES, Security
from stream.transport.sockets import RIG_TIMEOUT_MS, limit_silence

log = logging.getLogger(__name__)

MAX_PARTS = 4
CONNECT_TIMEOUT_MS = 1_000
RECONNECT_IVL_MS = 100
RECONNECT_IVL_MAX_MS = 500
"""Longest pause between two attempts to connect. With it, a live pair arrives within about a second after a link is back."""
MAX_MESSAGE_BYTES = 2 * MAX_EYE_BYTES + (32 << 20)
"""The largest pair, and what belongs to the next one until ZeroMQ stops reading."""
BOUNDS = Bounds(pending_bytes=MAX_MESSAGE_BYTES, all_pending_bytes=MAX_MESSAGE_BYTES, each_pending_bytes=2 << 20)
"""What rigs may leave in ZeroMQ's memory. All of them together may leave as much as one; each connection adds a few pairs of a
usual size."""
MAX_REPLIES = 4
"""Replies of one spool that ZeroMQ holds. The number is fixed: ZeroMQ (4.3.5) can wait for ever if it is changed later."""
MAX_PART_BYTES = MAX_EYE_BYTES + CURVE_OVERHEAD_BYTES


class RigLinks:
    """Connects to rigs, and connects again where ZeroMQ has given up. Used by one thread; any thread may read `failures`.

    addresses: as `stream.transport.endpoint.connect_address` returns them. new_plan: makes the plan for a rig's spool from the
    number of its address. high_water: messages that ZeroMQ holds for each endpoint before TCP pushes back. Raises EndpointError
    for an address that cannot be used.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        new_plan: Callable[[int], BackfillPlan],
        *,
        high_water: int,
        security: Security | None,
    ) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._security = security
        self.failures = Failures(log, LOG_INTERVAL_S, reasons=REASONS)
        """Failed handshakes of all sockets, by reason of `stream.transport.handshake.REASONS`."""
        self._gate = Gate(BOUNDS, self.failures)
        self._dialers: list[Dialer] = []
        self._poller = zmq.Poller()
        self._tended_s = float("-inf")
        self.spools: list[BackfillClient] = []
        """One client for each address, in the same order."""
        self._live: list[Dialer] = []  # in the same order
        self._next = 0
        try:
            for number, address in enumerate(addresses):
                live = self._open(zmq.SUB, high_water)
                live.socket.set(zmq.SUBSCRIBE, b"")
                self._live.append(live)
                live.dial(address)
                spool = self._open(zmq.DEALER, MAX_REPLIES)
                spool.socket.set(zmq.SNDHWM, HIGH_WATER)
                spool.socket.set(zmq.IMMEDIATE, 1)  # a request to a rig that is away is not kept for later
                self.spools.append(BackfillClient(spool, new_plan(number)))
                spool.dial(backfill_endpoint(address))
        except BaseException:
            self.close()
            raise

    def poll(self, timeout_s: float) -> None:
        """Wait until a message has arrived or the time is over."""
        self._poller.poll(int(1000 * timeout_s))

    def receive_live(self, refuse: Callable[[MalformedMessage], None]) -> tuple[EncodedPair | Announcement, int] | None:
        """Return one message of the live streams, its checksum verified, and the number of its address; None if there is none.

        The streams take turns. refuse: called for each signal that is not valid. Raises MalformedMessage.
        """
        for _ in self._live:
            number = self._next
            self._next = (number + 1) % len(self._live)
            try:
                parts = self._live[number].receive(max_parts=MAX_PARTS)
            except zmq.Again:
                continue
            is_pair = parts[0] not in announcements.TOPICS
            return (codec.from_parts(parts, refuse) if is_pair else announcements.from_parts(parts)), number
        return None

    def confirm(self, bye: Bye, number: int) -> None:
        """Confirm to the publisher at an address that everything up to its bye was received."""
        topic = announcements.CONFIRMATION + bye.epoch.encode()
        self._live[number].socket.set(zmq.SUBSCRIBE, topic)
        self._live[number].socket.set(zmq.UNSUBSCRIBE, topic)  # otherwise each epoch would leave one

    def tend(self) -> None:
        """Connect again to the rigs that ZeroMQ has given up, and cut off those that send too much.

        It never waits, and may be called often.
        """
        now_s = time.monotonic()
        if now_s - self._tended_s >= SWEEP_S:
            self._tended_s = now_s
            for dialer in self._dialers:
                dialer.tend()

    def close(self) -> None:
        """Close all sockets; idempotent."""
        for dialer in self._dialers:
            dialer.close()
            dialer.socket.close(linger=0)
        self._gate.close()
        self._context.term()

    def _open(self, kind: int, high_water: int) -> Dialer:
        socket = self._context.socket(kind)
        socket.set(zmq.RCVHWM, high_water)
        socket.set(zmq.MAXMSGSIZE, MAX_PART_BYTES)  # ZeroMQ drops a connection that sends more, before it takes memory
        socket.set(zmq.RECONNECT_IVL, RECONNECT_IVL_MS)
        socket.set(zmq.RECONNECT_IVL_MAX, RECONNECT_IVL_MAX_MS)
        socket.set(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
        limit_silence(socket, RIG_TIMEOUT_MS)
        dialer = Dialer(socket, self.failures, self._security, self._gate)
        self._dialers.append(dialer)
        self._poller.register(socket, zmq.POLLIN)
        return dialer
