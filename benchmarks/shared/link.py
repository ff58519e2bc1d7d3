"""A network link between two processes of this machine. It can be cut, frozen and slowed down, and it counts bytes.

It listens on two neighbouring ports, as a rig does for its live stream and its spool, and forwards all data to the two ports of
its target. A link with limited speed is one queue for everything: each chunk waits until those before it have left.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

from benchmarks.shared.machine import HOST

CHUNK_BYTES = 1 << 14
BURST_S = 0.005
"""Seconds of traffic that a limited link may catch up after its thread woke up late."""
PORT_TRIES = 64


class Link:
    """Forwards its `port` and the next one. It has to be closed. Any thread may call all methods.

    bytes_per_s: limit of all data that comes back from the other end, both ports together; None: no limit.
    buffer_bytes: size of the kernel's buffers of each TCP connection here; None: the kernel's default.
    """

    def __init__(self, *, bytes_per_s: float | None = None, buffer_bytes: int | None = None) -> None:
        self._bytes_per_s = bytes_per_s
        self._buffer_bytes = buffer_bytes
        self.live_first = False
        """Whether data of the first port overtakes data of the second on the way back; otherwise there is one queue.

        Wi-Fi does so, and so does a router that respects the marks of packets.
        """
        self.forwarded_bytes = 0
        """In both directions, until now."""
        self._changed = threading.Condition()  # guards everything below
        self._target: int | None = None
        self._cuts = self._freezes = 0
        self._closing = False
        self._free_s = [0.0, 0.0]  # when the limited queue will have room for a chunk of either port
        self._sockets: set[socket.socket] = set()
        self._reserved = self._bind_two()
        self.port: int = self._reserved[0].getsockname()[1]
        self._threads = [
            threading.Thread(target=self._accept, args=(offset,), name="link", daemon=True) for offset in (0, 1)
        ]
        for thread in self._threads:
            thread.start()

    def point_to(self, port: int | None) -> None:
        """Forward to this port and the next one from now on; None refuses connections."""
        with self._changed:
            self._target = port
            self._drop_connections()

    def cut(self, times: int = 1) -> None:
        """Close all connections and refuse new ones. Calls are counted; `times` of -1 undoes one of them."""
        with self._changed:
            self._cuts += times
            if self._cuts:
                self._drop_connections()
            self._changed.notify_all()

    def freeze(self, times: int = 1) -> None:
        """Stop forwarding without closing any connection. Calls are counted; `times` of -1 undoes one of them."""
        with self._changed:
            self._freezes += times
            self._changed.notify_all()

    @property
    def is_cut(self) -> bool:
        """Whether new connections are refused now."""
        return self._cuts > 0

    def close(self) -> None:
        """Cut everything and free the ports; idempotent."""
        with self._changed:
            self._closing = True
            self._drop_connections()
        for thread in self._threads:
            thread.join()
        for reserved in self._reserved:
            reserved.close()

    def _bind_two(self) -> list[socket.socket]:
        """Return two bound sockets that do not listen; they keep the ports while the link refuses connections."""
        for _ in range(PORT_TRIES):
            first, second = self._socket(), self._socket()
            first.bind((HOST, 0))
            try:
                second.bind((HOST, first.getsockname()[1] + 1))
            except (OSError, OverflowError):
                first.close()
                second.close()
            else:
                return [first, second]
        raise OSError(f"no two neighbouring ports were free in {PORT_TRIES} tries")

    def _socket(self) -> socket.socket:
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._buffer_bytes is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer_bytes)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer_bytes)
        return opened

    def _drop_connections(self) -> None:
        """End all connections and stop listening. The caller holds the lock."""
        for opened in self._sockets:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        self._changed.notify_all()

    def _accept(self, offset: int) -> None:
        """Work in the thread of one port: listen while the link has a target."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or (self._target is not None and not self._cuts))
                if self._closing:
                    return
                listener = self._socket()
                listener.bind((HOST, self.port + offset))
                listener.listen()
                self._sockets.add(listener)
            with suppress(OSError):  # the link was cut, or has another target
                while True:
                    near = listener.accept()[0]
                    threading.Thread(target=self._carry, args=(near, offset), daemon=True).start()
            with self._changed:
                self._sockets.remove(listener)
            listener.close()

    def _carry(self, near: socket.socket, offset: int) -> None:
        """Work in the thread of one connection."""
        far = self._socket()
        with suppress(OSError):
            with self._changed:
                if self._target is None or self._cuts or self._closing:
                    raise ConnectionAbortedError
                self._sockets |= {near, far}
                port = self._target + offset
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.connect((HOST, port))
            there = threading.Thread(target=self._forward, args=(near, far, None), daemon=True)
            there.start()
            self._forward(far, near, offset)
            there.join()
        with self._changed:
            self._sockets -= {near, far}
        near.close()
        far.close()

    def _forward(self, source: socket.socket, sink: socket.socket, back: int | None) -> None:
        """Forward one direction of a connection. back: the direction from the target to us."""
        with suppress(OSError):  # either end is gone, or the link was cut
            while (data := source.recv(CHUNK_BYTES)) and self._pass(len(data), back):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass(self, size: int, back: int | None) -> bool:
        """Wait until a chunk may leave; return False if the link is being closed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._freezes or self._cuts or self._closing)
            if self._cuts or self._closing:
                return False
            self.forwarded_bytes += size
            if back is None or self._bytes_per_s is None:
                return True
            now_s = time.monotonic()
            for port in (0, 1)[back:] if self.live_first else (0, 1):  # those whose next chunk waits for this one
                self._free_s[port] = max(self._free_s[port], now_s - BURST_S) + size / self._bytes_per_s
            leaves_s = self._free_s[back]
        time.sleep(max(0.0, leaves_s - now_s))
        return True
