"""How a dead connection is noticed: by the kernel.

ZeroMQ's own heartbeats are off. Where a side has stopped reading, because its queue is full, and the other one dies, the
next ping runs into an assertion of libzmq (4.3.5: stream_engine_base.cpp, `!_io_error` in out_event), which ends the whole
process. TCP does what is needed: probes on a connection that is idle, and a bound on how long what was sent may stay
unconfirmed. A learner that rests with its queue full confirms nothing more either, so a rig is patient.
"""

from __future__ import annotations

import zmq

LEARNER_TIMEOUT_MS = 60_000
"""A rig lets go of a learner that vanished, or rested for so long while pairs wait for it. It calls again and pulls them."""
PROBE_AFTER_S = 1
PROBE_INTERVAL_S = 1


def watch_link(socket: zmq.Socket[bytes], timeout_ms: int) -> None:
    """Let a socket give up connections on which the other side's kernel confirms nothing for so long. Before it connects."""
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.TCP_KEEPALIVE_IDLE, PROBE_AFTER_S)
    socket.set(zmq.TCP_KEEPALIVE_INTVL, PROBE_INTERVAL_S)
    socket.set(zmq.TCP_MAXRT, timeout_ms)
