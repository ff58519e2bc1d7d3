"""Lets the kernel notice dead connections.

ZeroMQ's own heartbeats are off. If one side has stopped reading, because its queue is full, and the other one dies, the next ping
runs into an assertion of libzmq (4.3.5: stream_engine_base.cpp, `!_io_error` in out_event), which ends the whole process. TCP
does
what is needed: probes on an idle connection, and a bound on how long sent data may stay unconfirmed. A learner that rests with a
full queue confirms nothing either, so a rig is patient.
"""

from __future__ import annotations

import zmq

LEARNER_TIMEOUT_MS = 60_000
"""How long a rig keeps a connection to a consumer that confirms nothing. The consumer connects again, and pulls its pairs."""
PROBE_AFTER_S = 1
PROBE_INTERVAL_S = 1


def watch_link(socket: zmq.Socket[bytes], timeout_ms: int) -> None:
    """Let a socket drop connections on which the other side's kernel confirms nothing for so long. Call it before it connects."""
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.TCP_KEEPALIVE_IDLE, PROBE_AFTER_S)
    socket.set(zmq.TCP_KEEPALIVE_INTVL, PROBE_INTERVAL_S)
    socket.set(zmq.TCP_MAXRT, timeout_ms)
