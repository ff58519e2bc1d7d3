"""The rules by which connections of a socket are cut off: how many there may be, and how many bytes each may leave in memory.

ZeroMQ bounds a part of a message (MAXMSGSIZE) and counts whole messages (high water marks). It bounds neither the parts of a
message, nor bytes, nor connections. Here a connection is known by what TCP counts for it:

    pending     bytes that ZeroMQ has read from it, without those of the messages that we have received from ZeroMQ
    unconfirmed bytes that we have given to ZeroMQ for it, without those that the other side's kernel has confirmed

Everything is passed in: this file uses no socket, thread or clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from stream.transport.lens import Identity, Traffic

HEARTBEAT_BYTES_PER_S = 256
"""Pending bytes that are forgiven: other implementations send heartbeats, which are never received as messages."""
PROGRESS_BYTES = 1 << 20
"""A connection that has confirmed so much since it fell behind is not stuck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The bounds of a socket, or of several sockets that share them."""

    connections: int | None = None
    """Most connections at a time; None: no bound, as where we connect ourselves."""
    pending_bytes: int
    """Most pending bytes of one connection."""
    all_pending_bytes: int
    """Most pending bytes of all connections together."""
    each_pending_bytes: int = 0
    """By so much `all_pending_bytes` rises with each connection."""
    topic_bytes: int = 4 << 10
    """Most bytes of subscriptions that mean nothing here, of one connection; ZeroMQ needs about 50 times as much memory."""
    unconfirmed_bytes: int = 8 << 20
    """A connection with so many unconfirmed bytes gets no answer until it has read some; at least two of the largest answers."""
    all_unconfirmed_bytes: int = 48 << 20
    """Most unconfirmed bytes of all connections; beyond, those that are stuck longest are cut off. At least four of the largest
    answers."""


@dataclass(slots=True)
class Connection:
    """A connection, and the bytes that went over it."""

    identity: Identity
    owner: str
    """Whose it is: the name under which its key is trusted, or its host."""
    since_s: float
    """When it was last looked at."""
    progress_s: float
    """When it was last not behind, or had confirmed PROGRESS_BYTES."""
    proven: bool = False
    """Whether a message was received from it."""
    is_cut: bool = False
    received_bytes: int = 0
    waiting_bytes: int = 0
    delivered_bytes: float = 0.0
    confirmed_bytes: int = 0
    sent_bytes: int = 0
    topic_bytes: int = 0
    behind: bool = False
    mark_bytes: int = 0
    """Confirmed bytes at `progress_s`."""

    @property
    def pending_bytes(self) -> float:
        """See the module."""
        return max(0.0, self.received_bytes - self.waiting_bytes - self.delivered_bytes)

    @property
    def unconfirmed_bytes(self) -> int:
        """See the module."""
        return max(0, self.sent_bytes - self.confirmed_bytes)

    def update(self, traffic: Traffic, now_s: float) -> None:
        """Note what TCP counts now."""
        self.received_bytes, self.waiting_bytes = traffic.received_bytes, traffic.waiting_bytes
        self.confirmed_bytes, self.behind = traffic.confirmed_bytes, traffic.behind
        forgiven = HEARTBEAT_BYTES_PER_S * (now_s - self.since_s)
        # Nobody earns more than was received, so that no stock for a flood can be saved up.
        self.delivered_bytes = min(self.delivered_bytes + forgiven, self.received_bytes)
        self.sent_bytes = max(self.sent_bytes, self.confirmed_bytes)  # handshakes and heartbeats were not counted
        self.since_s = now_s
        if not self.behind or self.confirmed_bytes - self.mark_bytes >= PROGRESS_BYTES:
            self.progress_s, self.mark_bytes = now_s, self.confirmed_bytes


@dataclass(slots=True)
class Crowd:
    """All connections of a socket, by descriptor, oldest first."""

    bounds: Bounds
    connections: dict[int, Connection] = field(default_factory=dict)
    largest_bytes: int = 0
    """Of the messages that were sent so far."""

    def add(self, identity: Identity, now_s: float) -> None:
        """Enter a new connection; one with the same descriptor is gone."""
        self.connections.pop(identity.descriptor, None)
        self.connections[identity.descriptor] = Connection(identity, identity.host, now_s, now_s)

    def present(self) -> list[Connection]:
        """Return the connections that are not cut off."""
        return [one for one in self.connections.values() if not one.is_cut]

    def add_sent(self, descriptor: int, size_bytes: int) -> None:
        """Note that so many bytes were given to ZeroMQ for a connection."""
        self.largest_bytes = max(self.largest_bytes, size_bytes)
        if (one := self.connections.get(descriptor)) is not None:
            one.sent_bytes += size_bytes

    def room_bytes(self, one: Connection | None = None) -> int:
        """Return how many bytes may still be sent: to one connection, or to all of them together; negative if it is too much."""
        if one is not None:
            return max(self.bounds.unconfirmed_bytes, 2 * self.largest_bytes) - one.unconfirmed_bytes
        unconfirmed_bytes = sum(one.unconfirmed_bytes for one in self.present())
        return max(self.bounds.all_unconfirmed_bytes, 4 * self.largest_bytes) - unconfirmed_bytes

    def stuck(self) -> Connection | None:
        """Return the connection that has been behind for longest; None if none is behind."""
        return min((one for one in self.present() if one.behind), key=lambda one: one.progress_s, default=None)

    def offenders(self) -> Iterator[tuple[Connection, str]]:
        """Yield the connections whose bytes are beyond the bounds, each with the reason. The caller sets `is_cut` at once."""
        bounds = self.bounds
        for one in self.present():
            if one.pending_bytes > bounds.pending_bytes or one.topic_bytes > bounds.topic_bytes:
                yield one, "flood"
        while (present := self.present()) and sum(one.pending_bytes for one in present) > (
            bounds.all_pending_bytes + bounds.each_pending_bytes * len(present)
        ):
            yield max(present, key=lambda one: one.pending_bytes), "flood"
        while self.room_bytes() < 0 and (stuck := self.stuck()) is not None:
            yield stuck, "unread"

    def superfluous(self) -> Connection | None:
        """Return the connection that has to go because there are too many; None if there are not.

        If strangers, from whom no message has come, have more than a quarter of the places, it is the oldest of them: an honest
        one needs such a place for a moment only. Otherwise it is the newest. In both cases it is of the owner that has most.
        """
        present, limit = self.present(), self.bounds.connections
        if limit is None or len(present) <= limit:
            return None
        strangers = [one for one in present if not one.proven]
        oldest = 4 * len(strangers) > limit
        group = strangers if oldest else present[::-1]
        owner = Counter(one.owner for one in group).most_common(1)[0][0]
        return next(one for one in group if one.owner == owner)
