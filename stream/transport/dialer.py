"""The consumer's side of a handshake: it connects to rigs, reports why a rig refuses the connection, and connects again.

After a refused handshake, a damaged message, or a reply in another protocol, ZeroMQ gives an address up for good: a learner that
was started a minute before its key was trusted would wait for ever. Here the connection is tried again every few seconds.
"""

from __future__ import annotations

import time
from contextlib import suppress

import zmq

from stream.errors import EndpointError
from stream.failures import Failures
from stream.host.typed import there
from stream.transport.endpoint import connect, port_of, rig_at
from stream.transport.gate import Gate
from stream.transport.handshake import FAILED_EVENTS, failure, read_event
from stream.transport.security import Security
from stream.transport.sockets import receive

REDIAL_S = 5.0
"""Seconds from the moment at which ZeroMQ gives an address up until the next attempt to connect."""
_EVENTS = (
    FAILED_EVENTS
    | zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_RETRIED
)


class Dialer:
    """Connects one socket to rigs; used by the socket's own thread.

    `tend` has to be called every 50 ms or so: it also sees that no rig takes more memory than the gate allows, and a monitor that
    is not read blocks ZeroMQ after 2000 events.
    gate: watches the connections; several dialers may share it.
    """

    def __init__(self, socket: zmq.Socket[bytes], failures: Failures, security: Security | None, gate: Gate) -> None:
        self.socket = socket
        self._gate = gate
        self._security = security
        self.failures = failures
        self._rigs: dict[str, str | None] = {}
        self._shaking_hands: set[str] = set()  # connected, and the handshake has not ended yet
        self._left_s: dict[str, float] = {}
        """Since when an address has failed or been disconnected, without an event that ZeroMQ tries again."""
        self._monitor = socket.get_monitor_socket(_EVENTS)

    def dial(self, address: str) -> None:
        """Connect to an address from `stream.transport.endpoint.connect_address`. Raises EndpointError in one line."""
        plain, rig = rig_at(address)
        if (rig is None) != (self._security is None):
            raise EndpointError(f"{address} has to be read with the same keys that it is called with")
        if plain in self._rigs:
            raise EndpointError(f"{plain} is named twice: leave one of the two out")
        self._call(plain, rig)
        self._rigs[plain] = rig

    def receive(self, *, max_parts: int, max_bytes: float = float("inf")) -> list[bytes]:
        """Return one message; as `stream.transport.sockets.receive`."""
        message = receive(self.socket, max_parts=max_parts, max_bytes=max_bytes)
        if not self._gate.delivered(message):  # its connection is so new that its event was not read yet
            self._read_events()
        return message.parts

    def tend(self) -> None:
        """Read the events of the connections, log failures, and connect again to addresses that ZeroMQ has given up.

        It never waits.
        """
        self._read_events()
        self._gate.sweep()
        now_s = time.monotonic()
        for address in [address for address, left_s in self._left_s.items() if now_s - left_s >= REDIAL_S]:
            del self._left_s[address]
            with suppress(zmq.ZMQError):  # it may be gone already
                self.socket.disconnect(address)
            self._call(address, self._rigs[address])

    def close(self) -> None:
        """Stop reading events. Call it before the socket is closed; idempotent."""
        if not self._monitor.closed:
            self.socket.disable_monitor()
            self._monitor.close(linger=0)

    def _call(self, address: str, rig: str | None) -> None:
        if self._security is not None and rig is not None:
            self._security.call(self.socket, rig)
        connect(self.socket, address)

    def _read_events(self) -> None:
        with suppress(zmq.Again):
            while True:
                self._read(*read_event(self._monitor))

    def _read(self, kind: int, value: int, address: str) -> None:
        if address not in self._rigs:
            return
        reason = failure(kind, value)
        if reason is not None:
            self._shaking_hands.discard(address)
            self._left_s[address] = time.monotonic()
            self.failures.add(reason, self._describe(reason, address), self._subject(address))
        elif kind == zmq.EVENT_CONNECTED:
            self._shaking_hands.add(address)
            self._gate.enter(value, port=port_of(address))
        elif kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._shaking_hands.discard(address)
        elif kind == zmq.EVENT_CONNECT_RETRIED:
            self._left_s.pop(address, None)
        else:
            self._left_s[address] = time.monotonic()
            if address in self._shaking_hands:
                self._shaking_hands.remove(address)
                self.failures.add(
                    "protocol", f"{address} is no rig: something else answers there", self._subject(address)
                )

    def _subject(self, address: str) -> str:
        """Return whom a warning is about: a rig has two ports, and one warning is enough."""
        return f"{self._rigs[address] or ''} at {address.rpartition(':')[0]}"

    def _describe(self, reason: str, address: str) -> str:
        rig = self._rigs[address]
        if self._security is None or rig is None:
            return f"a handshake with {address} failed: the rig there needs keys (give --keys FOLDER here), or it is no rig"
        if reason == "refused":
            command = there("stream", "keys", "trust", "learner", self._security.public)
            return f"{rig} at {address} does not trust our key: type on the rig `{command}` and start it again"
        if reason == "wrong_key":
            return f"a message of {rig} at {address} was damaged on its way: the connection is being made again"
        if reason == "protocol":
            return f"a handshake with {address} failed: the rig there was started without keys, or it is no rig"
        return (
            f"{address} closed the connection: its key is not the one trusted here as {rig} "
            f"(`{there('stream', 'keys')}` there shows it), or the rig there was started without keys"
        )
