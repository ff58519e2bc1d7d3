"""Recognises, counts and logs failed handshakes.

ZeroMQ itself reports nothing: to it, a wrong key looks like a rig that is off. It sends events to a socket's monitor; these are
the events of each side (measured with libzmq 4.3.5):

    case                                    rig (bound)                       learner (connected)
    learner is not trusted by the rig       refused (AUTH 400)                refused (AUTH 400); ZeroMQ gives up
    learner has another key for the rig     wrong_key (CRYPTOGRAPHIC)         broken_off, again and again
    plain learner, rig with keys            protocol or broken_off (a race)   broken_off, at last protocol; ZeroMQ gives up
    learner with keys, plain rig            protocol or broken_off (a race)   broken_off, at last protocol; ZeroMQ gives up
    something else at the port              -                                 protocol (by us); ZeroMQ gives up
    something that accepts and hangs up     -                                 broken_off, again and again
    a message under keys is damaged         wrong_key                         wrong_key; ZeroMQ gives up

"Gives up" means that it never calls that address again, whatever changes there; `stream.transport.dialer` does.
"""

from __future__ import annotations

import struct

import zmq

REASONS = ("refused", "wrong_key", "protocol", "broken_off", "crowd", "flood", "unread", "self")
"""Why handshakes fail: the key is not trusted; a message was encrypted for another key (or damaged, then also after the
handshake); the other side uses no keys, or keys, or another protocol; the other side closed the connection or stayed silent.

And why connections are cut off (`stream.transport.crowd`): there are too many; it sends what is no message that belongs here; it
does not read what it asked for; it has reached itself.
"""
FAILED_EVENTS = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
LOG_INTERVAL_S = 30.0
"""Seconds between two log lines of the same reason and address."""


def read_event(monitor: zmq.Socket[bytes]) -> tuple[int, int, str]:
    """Read one event of a monitor without waiting: its kind, its value, and the address. Raises zmq.Again."""
    event, address = monitor.recv_multipart(zmq.NOBLOCK)
    kind, value = struct.unpack("=HI", event)
    return kind, value, address.decode()


def failure(kind: int, value: int) -> str | None:
    """Return the reason of a failed handshake, None for any other event."""
    if kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return "refused"
    if kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return "wrong_key" if value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC else "protocol"
    return "broken_off" if kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL else None
