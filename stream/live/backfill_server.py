"""The rig's second socket: it sends pairs from the spool to consumers that missed them. `Publisher(shelf=...)` makes it.

It is a ROUTER on a port of its own, so that a live pair never waits behind old ones in one TCP stream. It has a lower priority
in the network (DSCP CS1, which Wi-Fi sends as background traffic). The shelf remembers consumers, the server does not: it replies
to each request when it arrives, and a lost request is sent again by the consumer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
import zmq

from stream.errors import MalformedMessage
from stream.failures import Failures
from stream.live import backfill_messages as messages
from stream.transport.crowd import Bounds
from stream.transport.endpoint import bind
from stream.transport.gate import Gate
from stream.transport.sockets import LEARNER_TIMEOUT_MS, limit_silence, receive, size_on_wire

log = logging.getLogger(__name__)

BACKGROUND_TOS = 0x20
HIGH_WATER = 8
"""Number of replies, each as large as the credit, that may wait for one consumer; a consumer sends one or two requests at a
time."""
MAX_REQUEST_BYTES = 64 * messages.MAX_EPOCHS
"""The largest request acknowledges MAX_EPOCHS epochs, each with 34 bytes of name and up to 9 of number."""
MAX_REQUEST_PARTS = 2
BOUNDS = Bounds(pending_bytes=4 * MAX_REQUEST_BYTES, all_pending_bytes=16 << 20)
"""A consumer has a few requests under way, and only one of them can be large."""
POLL_S = 0.1
LOG_INTERVAL_S = 10.0


def reply_to(
    request: messages.Request,
    shelf: messages.Shelf,
    *,
    over: bool,
    now_ns: int,
    vitals: Callable[[], messages.Vitals],
    peer: str | None = None,
) -> tuple[messages.Reply, Sequence[messages.PairParts]]:
    """Return the reply to a request, and the pairs that follow it. Only the shelf is read and changed.

    over: whether the stream has ended, so that no epoch is open. now_ns: nanoseconds since 1970. peer: the name under which the
    key of the asking connection is trusted; None where there are no keys.
    """
    match request:
        case messages.SpansRequest():
            kept = not request.consumer or shelf.register(request.consumer, peer)
            spans = [msgspec.structs.replace(span, open=span.open and not over) for span in shelf.spans(freed=True)]
            since = shelf.kept_from(request.consumer) if request.consumer and kept else None
            return messages.SpansReply(2, shelf.device, spans, request.sent_ns, now_ns, vitals(), kept, since), ()
        case messages.AckRequest():
            if request.consumer:
                shelf.acknowledge(request.consumer, request.upto, peer)
            return messages.AckReply(2, shelf.device, request.sent_ns), ()
        case messages.LeaveRequest():
            shelf.leave(request.consumer, peer)
            return messages.AckReply(2, shelf.device, request.sent_ns), ()
        case messages.PairsRequest():
            reading = shelf.read(request.epoch, request.first, request.last, request.credit_bytes)
            lost = list(reading.lost)
            return messages.PairsReply(2, shelf.device, request.epoch, request.first, reading.next, lost), reading.rows


class BackfillServer:
    """Replies to requests on `socket`, in a thread of its own, until it is closed.

    socket: a new ROUTER whose security is set; the server binds and owns it.
    gate: of the socket; a consumer that leaves too many replies unread gets none until it has read some.
    address: as `stream.transport.endpoint.bind_address` returns it. Raises EndpointError if it cannot be bound.
    vitals: reads battery and temperature of the rig; called by the thread.
    clock_ns: nanoseconds since 1970, by the clock that also stamps the pairs.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        address: str,
        shelf: messages.Shelf,
        gate: Gate,
        *,
        vitals: Callable[[], messages.Vitals] = messages.Vitals,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._socket = socket
        self._shelf = shelf
        self._gate = gate
        self._vitals = vitals
        self._clock_ns = clock_ns
        self._closing = threading.Event()
        self.failures = Failures(log, LOG_INTERVAL_S)
        self.over = False
        """Set it when the stream has ended, so that a consumer that missed the bye learns it from a reply."""
        socket.set(zmq.SNDHWM, HIGH_WATER)
        socket.set(zmq.RCVHWM, HIGH_WATER)
        socket.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        socket.set(zmq.TOS, BACKGROUND_TOS)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.ROUTER_MANDATORY, 1)  # it then says whether a reply was taken
        limit_silence(socket, LEARNER_TIMEOUT_MS)
        self._keys = bool(socket.get(zmq.CURVE_SERVER))
        self.endpoint = bind(socket, address)
        self._thread = threading.Thread(target=self._run, name="backfill", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the socket; idempotent."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                if self._socket.poll(int(1000 * POLL_S)):
                    self._answer_one()
        finally:
            self._socket.close()

    def _answer_one(self) -> None:
        received = receive(self._socket, max_parts=MAX_REQUEST_PARTS)
        self._gate.delivered(received)
        room_bytes = self._gate.room_bytes(received.descriptor)
        if room_bytes <= 0:
            self.failures.add("unread", "a request was dropped: the consumer does not read the replies to earlier ones")
            return
        sender, *parts = received.parts
        try:
            request = messages.decode_request(parts)
            if isinstance(request, messages.PairsRequest) and request.credit_bytes > room_bytes:
                request = msgspec.structs.replace(request, credit_bytes=room_bytes)
            over = self.over  # read before the spans, which may still grow in between
            now_ns, peer = self._clock_ns(), received.peer
            reply, rows = reply_to(request, self._shelf, over=over, now_ns=now_ns, vitals=self._vitals, peer=peer)
        except MalformedMessage as error:
            self.failures.add("malformed", f"request dropped: {error}")
        except Exception as error:  # a spool in trouble must not end the stream: the consumer sends the request again
            self.failures.add("unanswered", f"a request could not be answered: {error}")
        else:
            parts = [messages.encode_message(reply), *(part for row in rows for part in row)]
            with suppress(zmq.ZMQError):  # the consumer is gone or slow
                self._socket.send_multipart([sender, *parts], zmq.NOBLOCK, copy=False)
                self._gate.sent(received.descriptor, size_on_wire(parts, keys=self._keys))
