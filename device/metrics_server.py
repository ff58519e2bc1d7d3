"""The port of the rig's metrics. Its connections are bounded in number and time, so that they leave descriptors to the spool."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

MAX_CONNECTIONS = 16
"""If there are more, the oldest one is cut."""
PATIENCE_S = 10.0
"""Longest time of a request with its response."""


@contextmanager
def serving(app: Callable[..., Any], port: int, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Serve a WSGI app at http://127.0.0.1:port inside the `with` block. Raises OSError or OverflowError for an unusable port."""
    server = make_server("127.0.0.1", port, app, _Server, _Handler)
    server.patience_s = patience_s
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each connection in a thread of its own, one request a connection."""

    daemon_threads = True
    request_queue_size = 128
    patience_s = PATIENCE_S

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._places = BoundedSemaphore(MAX_CONNECTIONS)
        self._began_s: dict[socket.socket, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self._cut_older_than(0.0, most=1)
            self._places.acquire()
        self._began_s[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._began_s.pop(request, None)
        super().shutdown_request(request)
        self._places.release()

    def service_actions(self) -> None:
        self._cut_older_than(self.patience_s)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that went away is no news."""

    def _cut_older_than(self, age_s: float, most: int = MAX_CONNECTIONS) -> None:
        """End the connections that began so long ago, oldest first; their threads then close them."""
        now_s = time.monotonic()
        for request, began_s in list(self._began_s.items())[:most]:
            if now_s - began_s >= age_s:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing of single requests."""
