"""The HTTP server in a thread of its own. Connections are bounded in number and time, so that no client disturbs training."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event, Thread

import uvicorn
from starlette.types import ASGIApp

from learner.errors import LearnerError, PortInUse
from learner.http.access import Access
from learner.http.connections import HEAD_S, PATIENCE_S, BoundedConnection

BACKLOG = 64
"""Connections that are taken from the system at once: so many more descriptors than MAX_CONNECTIONS are in use for a moment."""
RETRY_S = 10.0
"""Time between two attempts to listen on a port that another process uses."""

log = logging.getLogger(__name__)


@contextmanager
def served(
    app: ASGIApp, access: Access, *, retry_s: float = RETRY_S, head_s: float = HEAD_S, patience_s: float = PATIENCE_S
) -> Iterator[bool]:
    """Serve the app inside this context, unless the port is 0; yield whether it is served from the beginning.

    A port that another process uses is logged and tried again every `retry_s`, and training does not wait for it. A connection
    is closed if the head of a request takes longer than `head_s`, or if the client reads nothing of a response for `patience_s`.
    Raises SettingsError for a port that can never be used.
    """
    if not access.port:
        yield False
        return
    try:
        listener = access.listen()
    except PortInUse as error:
        log.warning(
            "%s; there is no page, /metrics or /weights until it is free; it is tried again every %g s", error, retry_s
        )
        listener = None
    server = _Server(
        uvicorn.Config(
            app,
            http=partial(BoundedConnection, head_s=head_s, patience_s=patience_s),  # type: ignore[arg-type]
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # malformed requests from strangers are not logged; the app logs its own errors
            server_header=False,
            backlog=BACKLOG,
        )
    )
    thread = Thread(target=server.serve_on, args=(access, listener, retry_s), name="http", daemon=True)
    thread.start()
    is_served = listener is not None
    try:
        yield is_served
    finally:
        server.end()
        thread.join()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ended = Event()

    def serve_on(self, access: Access, listener: socket.socket | None, retry_s: float) -> None:
        """Serve until `end`; without a listener, try to get one first."""
        while listener is None and not self._ended.wait(retry_s):
            with suppress(LearnerError):
                listener = access.listen()
                log.warning("http port %d on %s is free now: the page is served", access.port, access.host)
        if listener is not None:
            with listener:
                self.run([listener])

    def end(self) -> None:
        """Stop serving; may be called from any thread."""
        self._ended.set()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections at once: a learner that stops waits for no client."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)
