"""The rig's second socket: answers out of its spool to learners that missed pairs. Made by `Publisher(shelf=...)`.

A ROUTER on a port of its own, so that a live pair never waits behind old ones in one TCP stream; and of lower priority
in the network (DSCP CS1, which Wi-Fi sends as background traffic). It keeps nothing about who asked, but for what the
shelf does: a question is answered as it comes, and one that is lost is asked again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import msgspec
import zmq

from stream.errors import EndpointError, MalformedMessage
from stream.live.backfill_messages import Ack, Acked, Gave, Get, Here, Shelf, Vitals, Where, read_question, to_body
from stream.transport.endpoint import bind
from stream.transport.keepalive import LEARNER_TIMEOUT_MS, watch_link

log = logging.getLogger(__name__)

BACKGROUND_TOS = 0x20
HIGH_WATER = 8
"""Answers that wait for one learner, of its credit each; it asks for one or two at a time."""
MAX_QUESTION_BYTES = 1 << 20
MAX_QUESTION_PARTS = 8
POLL_S = 0.1
LOG_INTERVAL_S = 10.0


def backfill_endpoint(live: str) -> str:
    """The address of the second socket beside a live one, `#RIG` and all: its port is the next.

    Raises EndpointError for 65535.
    """
    address, hash_sign, rig = live.partition("#")
    host, _, port = address.rpartition(":")
    if int(port) >= 65535:
        raise EndpointError(f"{live} leaves no port after it for the spool: choose a lower one")
    return f"{host}:{int(port) + 1}{hash_sign}{rig}"


class BackfillServer:
    """Answers on `socket` in a thread of its own until it is closed.

    socket: a fresh ROUTER whose security is set; it is bound here and belongs to the server.
    address: as of `stream.transport.endpoint.bind_address`. Raises EndpointError where it cannot be bound.
    vitals: how the rig is; called by the thread.
    clock_ns: the rig's clock as pairs are stamped with, nanoseconds since 1970.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        address: str,
        shelf: Shelf,
        *,
        vitals: Callable[[], Vitals] = Vitals,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._socket = socket
        self._shelf = shelf
        self._vitals = vitals
        self._clock_ns = clock_ns
        self._closing = threading.Event()
        self._logged_s = float("-inf")
        self.asked_s = time.monotonic()
        """When the last question came (or the server began), by the monotonic clock."""
        self.malformed = 0
        self.over = False
        """Set it when no pair will be added any more: a learner that missed the bye hears of it here."""
        socket.set(zmq.SNDHWM, HIGH_WATER)
        socket.set(zmq.RCVHWM, HIGH_WATER)
        socket.set(zmq.MAXMSGSIZE, MAX_QUESTION_BYTES)
        socket.set(zmq.TOS, BACKGROUND_TOS)
        socket.set(zmq.LINGER, 0)
        watch_link(socket, LEARNER_TIMEOUT_MS)
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
        asker, *parts = self._receive()
        try:
            answer = self._answer(parts)
        except MalformedMessage as error:
            self.malformed += 1
            self._log("question dropped: %s count=%d", error, self.malformed)
            return
        except Exception as error:  # a spool in trouble must not end the stream: the learner asks again
            self._log("a question could not be answered: %s", error)
            return
        self.asked_s = time.monotonic()
        self._socket.send_multipart([asker, *answer], copy=False)  # a ROUTER drops it where the asker is gone or slow

    def _receive(self) -> list[bytes]:
        """Who asks, and the parts of the question; beyond a few they are not kept."""
        parts = [self._socket.recv()]
        while self._socket.get(zmq.RCVMORE):
            part = self._socket.recv()
            if len(parts) <= MAX_QUESTION_PARTS:
                parts.append(part)
        return parts

    def _answer(self, parts: list[bytes]) -> list[bytes]:
        shelf = self._shelf
        match question := read_question(parts):
            case Where():
                if question.consumer:
                    shelf.register(question.consumer)
                over = self.over  # read before the spans, which may still grow in between
                spans = [msgspec.structs.replace(span, open=span.open and not over) for span in shelf.spans()]
                here = Here(2, shelf.device, spans, question.sent_ns, self._clock_ns(), self._vitals())
                return [to_body(here)]
            case Ack():
                if question.consumer:
                    shelf.acknowledge(question.consumer, question.upto)
                return [to_body(Acked(2, shelf.device, question.sent_ns))]
            case Get():
                reading = shelf.read(question.epoch, question.first, question.last, question.credit_bytes)
                gave = Gave(2, shelf.device, question.epoch, question.first, reading.next, list(reading.lost))
                return [to_body(gave), *(part for row in reading.rows for part in row)]

    def _log(self, text: str, *values: object) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = now_s
            log.warning(text, *values)
