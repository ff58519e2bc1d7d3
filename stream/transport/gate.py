"""Bounds the memory and the descriptors that the connections of ZeroMQ's sockets can take, by cutting off those that take more.

The rules are in `stream.transport.crowd`. The thread that reads the sockets' monitors also calls `sweep`. The threads that use
the sockets report what they receive and send.
"""

from __future__ import annotations

import logging
import resource
import threading
import time
from collections.abc import Callable

from stream.closeable import Closeable
from stream.failures import Failures
from stream.transport.crowd import Bounds, Connection, Crowd
from stream.transport.lens import Lens
from stream.transport.sockets import Received

log = logging.getLogger(__name__)

SWEEP_S = 0.05
"""Seconds between two sweeps. In this time a peer on the loopback sends about 25 MiB."""
RESERVED_DESCRIPTORS = 256
"""Descriptors of a process that connections leave to everything else: spool, store, cameras, pages."""
MAX_CONNECTIONS = 128
"""Most connections of a bound socket; a rig keeps pairs for 64 consumers."""
SMALL_BYTES = 64 << 10
_TEXTS = {
    "crowd": "a connection from {host} was cut off: there are too many (at most {limit})",
    "flood": "a connection from {host} was cut off: it sent more than the messages that belong here",
    "unread": "a connection from {host} was cut off: it does not read what it asked for",
    "self": "a connection to port {port} of {host} had reached itself and was cut off: nobody listens there yet",
}


def connections_allowed(soft_limit: int) -> int:
    """Return how many connections one of two bound sockets may have. soft_limit: open files that the process may have."""
    if soft_limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(8, min(MAX_CONNECTIONS, (soft_limit - RESERVED_DESCRIPTORS) // 4))


class Gate(Closeable):
    """Watches the connections of one socket, or of several that share their bounds.

    One thread calls `enter`, `sweep` and `close`; any thread may call the other methods.
    failures: counts what was cut off, by reason. clock: seconds, monotonic.
    """

    def __init__(self, bounds: Bounds, failures: Failures, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._crowd = Crowd(bounds)
        self._failures = failures
        self._clock = clock
        self._swept_s = float("-inf")
        self._lens = Lens()
        self._counts = True
        """Whether the system counts the bytes of a connection."""
        self._cuts_stuck = False
        self._early: dict[int, int] = {}
        """Bytes of messages that came before their connection was entered, by descriptor, since the last sweep."""
        self._earlier: dict[int, int] = {}
        """The same of the sweep before: behind two sweeps, the event of a connection was read, or it is gone."""
        self._lock = threading.Lock()

    def enter(self, descriptor: int, *, local_port: int | None = None, port: int | None = None) -> None:
        """Watch a new connection with this local port, or to this port; a descriptor that means another one is left alone."""
        with self._lock:
            identity = self._lens.identify(descriptor)
            if identity is None or (identity.local_port, identity.port) != (
                identity.local_port if local_port is None else local_port,
                identity.port if port is None else port,
            ):
                return
            self._crowd.add(identity, self._clock())
            early_bytes = self._early.pop(descriptor, 0) + self._earlier.pop(descriptor, 0)
            self._crowd.connections[descriptor].delivered_bytes += early_bytes
            if identity.looped:
                self._cut(self._crowd.connections[descriptor], "self")
            while (one := self._crowd.superfluous()) is not None:
                self._cut(one, "crowd")

    def delivered(self, message: Received) -> bool:
        """Note that a message was received from ZeroMQ; return whether its connection is known.

        If it is not, its event was not read yet, and the message is counted once it is entered.
        """
        with self._lock:
            one = self._crowd.connections.get(message.descriptor)
            if one is not None:
                one.delivered_bytes += message.wire_bytes
                if not one.proven:
                    one.proven, one.owner = True, message.peer or one.owner
            else:
                self._early[message.descriptor] = self._early.get(message.descriptor, 0) + message.wire_bytes
            return one is not None

    def holds_topic(self, message: Received) -> None:
        """Note that a message was a subscription that means nothing here."""
        with self._lock:
            one = self._crowd.connections.get(message.descriptor)
            if one is not None:
                one.topic_bytes += message.wire_bytes

    def room_bytes(self, descriptor: int) -> int:
        """Return how many bytes may be sent to a connection now; 0 or less: none."""
        with self._lock:
            one = self._crowd.connections.get(descriptor)
            if one is None or not self._counts:
                return self._crowd.bounds.unconfirmed_bytes
            self._look(one)
            if self._crowd.room_bytes() <= 0:
                self._look_at_all()
            room_bytes = min(self._crowd.room_bytes(one), self._crowd.room_bytes())
            # Whoever has read everything gets a little, whatever others leave unread.
            return room_bytes if one.unconfirmed_bytes else max(room_bytes, SMALL_BYTES)

    def sent(self, descriptor: int, size_bytes: int) -> None:
        """Note that so many bytes were given to ZeroMQ for a connection."""
        with self._lock:
            self._crowd.add_sent(descriptor, size_bytes)

    def cut_stuck(self) -> None:
        """Let the next sweep cut off the connection that has been behind for longest."""
        self._cuts_stuck = True

    def sweep(self) -> None:
        """Cut off what is beyond the bounds, unless one has just been made. It never waits, and may be called often."""
        now_s = self._clock()
        if now_s - self._swept_s < SWEEP_S / 2:  # several callers come every SWEEP_S
            return
        self._swept_s = now_s
        with self._lock:
            self._early, self._earlier = {}, self._early
            self._look_at_all()
            if self._cuts_stuck and (stuck := self._crowd.stuck()) is not None:
                self._cut(stuck, "unread")
            self._cuts_stuck = False
            for one, reason in self._crowd.offenders():
                self._cut(one, reason)

    def close(self) -> None:
        """Stop watching; idempotent."""
        with self._lock:
            self._crowd.connections.clear()
            self._lens.close()

    def _look_at_all(self) -> None:
        for one in list(self._crowd.connections.values()):
            self._look(one)

    def _look(self, one: Connection) -> None:
        if not self._counts:
            if self._lens.identify(one.identity.descriptor) != one.identity:
                self._crowd.connections.pop(one.identity.descriptor, None)
            return
        try:
            traffic = self._lens.traffic(one.identity)
        except NotImplementedError:
            self._counts = False
            log.warning(
                "this system does not count the bytes of a connection: only the number of connections is bounded"
            )
            return
        if traffic is None:
            self._crowd.connections.pop(one.identity.descriptor, None)
        else:
            one.update(traffic, self._clock())

    def _cut(self, one: Connection, reason: str) -> None:
        one.is_cut = True
        self._lens.cut(one.identity)
        host, port, limit = one.identity.host, one.identity.port, self._crowd.bounds.connections
        self._failures.add(reason, _TEXTS[reason].format(host=host, port=port, limit=limit))
