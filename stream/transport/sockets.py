"""Functions for all our sockets: they detect dead connections, and receive messages of several parts.

ZeroMQ's own heartbeats are off. If one side has stopped reading, because its queue is full, and the other one dies, the next ping
runs into an assertion of libzmq (4.3.5: stream_engine_base.cpp, `!_io_error` in out_event), which ends the whole process. TCP
does what is needed: it probes an idle connection, and limits how long sent data may stay unconfirmed. A learner that reads
nothing because its queue is full confirms nothing either, so a rig waits long.
"""

from __future__ import annotations

import zmq

from stream.errors import MalformedMessage

LEARNER_TIMEOUT_MS = 60_000
"""How long a rig keeps a connection to a consumer that confirms nothing. The consumer connects again, and pulls its pairs."""
RIG_TIMEOUT_MS = 2_000
"""How long a consumer keeps a connection to a rig that confirms nothing; then it connects again. Without this limit, TCP would
wait longer and longer between its attempts, and notice late that a link is back.
"""
PROBE_AFTER_S = 1
PROBE_INTERVAL_S = 1


def limit_silence(socket: zmq.Socket[bytes], timeout_ms: int) -> None:
    """Let a socket drop a connection on which the other side's kernel has confirmed nothing for `timeout_ms`.

    Call it before `connect`.
    """
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.TCP_KEEPALIVE_IDLE, PROBE_AFTER_S)
    socket.set(zmq.TCP_KEEPALIVE_INTVL, PROBE_INTERVAL_S)
    socket.set(zmq.TCP_MAXRT, timeout_ms)


def receive_parts(socket: zmq.Socket[bytes], *, max_parts: int, max_bytes: float = float("inf")) -> list[bytes]:
    """Return one message. Of the parts beyond `max_parts` only one is kept, which is enough to refuse the message.

    Each part is copied once, out of ZeroMQ's memory: 0.04 ms for the 358 kB of a 720p pair.
    max_bytes: of all parts but the first. Raises zmq.Again if no message is there, and MalformedMessage for a larger message.
    """
    parts, received_bytes = [socket.recv(zmq.NOBLOCK)], 0
    while socket.get(zmq.RCVMORE):
        part = socket.recv()
        received_bytes += len(part)
        if received_bytes <= max_bytes and len(parts) <= max_parts:
            parts.append(part)
    if received_bytes > max_bytes:
        raise MalformedMessage("size", f"a message of {received_bytes} bytes is out of bounds")
    return parts
