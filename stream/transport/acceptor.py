"""The rig's side of a handshake: it decides which consumers may connect to its sockets, and reports why others are refused.

One thread serves all sockets of a rig. It answers ZeroMQ's question whether a key is trusted (ZAP, RFC 27), reads the sockets'
monitors, and cuts off connections that take too much (`stream.transport.gate`). It has to be a thread of its own: a monitor that
nobody reads blocks ZeroMQ's I/O thread after 2000 events, and with it every socket of the context, so that a stranger could
silence a rig by connecting again and again.

pyzmq's ThreadAuthenticator answers the same question, but does not report refusals, reads no monitors (which would take a second
thread), and dies silently with its asyncio loop.
"""

from __future__ import annotations

import logging
import resource
import threading
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue

import zmq
from zmq.utils import z85

from stream.closeable import Closeable
from stream.failures import Failures
from stream.host.typed import here, there
from stream.transport.crowd import Bounds
from stream.transport.endpoint import port_of
from stream.transport.gate import SWEEP_S, Gate, connections_allowed
from stream.transport.handshake import FAILED_EVENTS, LOG_INTERVAL_S, REASONS, failure, read_event
from stream.transport.security import Security

log = logging.getLogger(__name__)

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
HANDSHAKE_TIMEOUT_MS = 10_000
"""Longest time that a client can hold a connection without a handshake, milliseconds."""
POLL_MS = int(1000 * SWEEP_S)
"""Longest time until the thread notices a further socket or its end, or looks at the connections again, milliseconds."""
EVENTS_AT_ONCE = 256
"""Most events of a socket that are read before the other sockets get a turn."""
_EVENTS = FAILED_EVENTS | zmq.EVENT_ACCEPTED | zmq.EVENT_MONITOR_STOPPED


class Acceptor(Closeable):
    """Guards the bound sockets of one context: only trusted keys may connect. A context manager; close it after its sockets.

    security: the trusted keys; None: the sockets are plain, and only failures are counted.
    Raises ValueError for a context that has an acceptor with keys already.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], security: Security | None) -> None:
        self._security = security
        self._names = {} if security is None else {key: name for name, key in security.trusted.items()}
        self.failures = Failures(log, LOG_INTERVAL_S, reasons=REASONS)
        self._sockets: list[zmq.Socket[bytes]] = []
        self._joining: SimpleQueue[tuple[zmq.Socket[bytes], Gate]] = SimpleQueue()
        self._gates: dict[zmq.Socket[bytes], Gate] = {}
        """The gate of each monitor."""
        self._poller = zmq.Poller()
        self._closing = threading.Event()
        self._zap = None if security is None else _zap_socket(context)
        self._thread = threading.Thread(target=self._run, name="acceptor", daemon=True)
        self._thread.start()

    def guard(self, socket: zmq.Socket[bytes], bounds: Bounds) -> Gate:
        """Guard a socket of this context, which is not bound yet. Its thread reports to the gate what it receives and sends.

        bounds: of its connections; how many there may be is also limited by the open files that this process may have.
        Raises KeysError if there are keys and none is trusted, ValueError for a bound socket.
        """
        if socket.get(zmq.LAST_ENDPOINT):
            raise ValueError("a socket is guarded before it binds: what is bound already stays open to everybody")
        if self._security is not None:
            self._security.serve(socket)
        socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_TIMEOUT_MS)
        allowed = connections_allowed(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        gate = Gate(replace(bounds, connections=allowed), self.failures)
        self._sockets.append(socket)
        self._joining.put((socket.get_monitor_socket(_EVENTS), gate))
        return gate

    def close(self) -> None:
        """Stop guarding; idempotent. Waits until the closed sockets have finished lingering."""
        for socket in self._sockets:
            if not socket.closed:
                socket.disable_monitor()
        self._closing.set()  # the thread reads until all monitors have stopped: an unread one hangs the context
        self._thread.join()

    def _run(self) -> None:
        if self._zap is not None:
            self._poller.register(self._zap, zmq.POLLIN)
        try:
            while not self._closing.is_set() or self._gates or not self._joining.empty():
                self._turn()
        except zmq.ContextTerminated:
            log.debug("the context ended before its acceptor was closed")
        finally:
            self._take_joining()
            for monitor in list(self._gates):
                self._forget(monitor)
            if self._zap is not None:
                self._zap.close(linger=0)

    def _turn(self) -> None:
        for monitor in self._take_joining():
            self._poller.register(monitor, zmq.POLLIN)
        for socket, _ in self._poller.poll(POLL_MS):
            if socket is self._zap:
                self._admit(self._zap)
            else:
                self._read_monitor(socket)
        for gate in self._gates.values():
            gate.sweep()

    def _take_joining(self) -> list[zmq.Socket[bytes]]:
        new: list[zmq.Socket[bytes]] = []
        while not self._joining.empty():
            monitor, self._gates[monitor] = self._joining.get()
            new.append(monitor)
        return new

    def _forget(self, monitor: zmq.Socket[bytes]) -> None:
        monitor.close(linger=0)
        self._gates.pop(monitor).close()

    def _admit(self, zap: zmq.Socket[bytes]) -> None:
        """Tell ZeroMQ whether a key is trusted. If it is, its name becomes the User-Id of the connection."""
        _version, request, _domain, address, _identity, mechanism, *credentials = zap.recv_multipart()
        key = z85.encode(credentials[0]).decode() if mechanism == b"CURVE" else ""
        name = self._names.get(key)
        if name is None:
            zap.send_multipart([b"1.0", request, b"400", b"not trusted", b"", b""])
            self._log_refusal(key, address.decode())
        else:
            zap.send_multipart([b"1.0", request, b"200", b"OK", name.encode(), b""])

    def _read_monitor(self, monitor: zmq.Socket[bytes]) -> None:
        with suppress(zmq.Again):
            for _ in range(EVENTS_AT_ONCE):
                kind, value, address = read_event(monitor)
                if kind == zmq.EVENT_MONITOR_STOPPED:
                    self._poller.unregister(monitor)
                    self._forget(monitor)
                    return
                if kind == zmq.EVENT_ACCEPTED:
                    self._gates[monitor].enter(value, local_port=port_of(address))
                reason = failure(kind, value)
                if reason is not None and reason != "refused":  # a refusal is logged with its key, in _admit
                    self.failures.add(reason, self._describe(reason, address), address)

    def _log_refusal(self, key: str, address: str) -> None:
        folder = None if self._security is None else self._security.folder
        command = here("stream", "keys", "trust", "learner", key, keys=folder)
        self.failures.add(
            "refused",
            f"a learner at {address} was refused, its key is not trusted here: if "
            f"`{there('stream', 'keys')}` there shows {key}, type here `{command}` and start the rig again",
        )

    def _describe(self, reason: str, address: str) -> str:
        if self._security is None:
            return f"a handshake at {address} failed, which uses no keys: the other side is a learner with keys, or no learner"
        if reason == "wrong_key":
            return (
                f"a learner calls {address} with another key than this rig's, which is {self._security.public}: "
                "on the learner, forget the old key and trust this one"
            )
        return f"a handshake at {address} failed, which needs keys: the other side is a learner without keys, or no learner"


def _zap_socket(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.REP)
    try:
        socket.bind(ZAP_ENDPOINT)
    except zmq.ZMQError as error:
        socket.close()
        raise ValueError("this context has an acceptor with keys already: give each rig its own context") from error
    return socket
