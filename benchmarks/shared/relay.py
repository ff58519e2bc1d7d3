"""A TCP relay that counts: what travels between two processes, in both directions, as the kernel sees it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK_BYTES = 1 << 16


class Relay:
    """Forwards connections to a port of this machine from one of its own, `port`; context manager.

    to_port: where it connects to, once for each connection that comes.
    """

    def __init__(self, to_port: int, *, host: str = "127.0.0.1") -> None:
        self._to = (host, to_port)
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._count_bytes = 0
        self._sockets: list[socket.socket] = []
        self._forwarders: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def count_bytes(self) -> int:
        """Everything forwarded so far."""
        with self._lock:
            return self._count_bytes

    def close(self) -> None:
        """Cut all connections and wait for the threads to end; idempotent."""
        _cut(self._listener)
        self._acceptor.join()
        for end in self._sockets:
            _cut(end)
        for thread in self._forwarders:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(self._to)
                self._sockets += [near, far]
                for ends in ((near, far), (far, near)):
                    self._forwarders.append(threading.Thread(target=self._forward, args=ends, daemon=True))
                    self._forwarders[-1].start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # either end is gone: the connection is over
            while data := source.recv(CHUNK_BYTES):
                with self._lock:
                    self._count_bytes += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def _cut(end: socket.socket) -> None:
    with suppress(OSError):  # the other side was faster
        end.shutdown(socket.SHUT_RDWR)
    end.close()
