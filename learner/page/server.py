"""The HTTP server in a thread of its own. Connections are bounded in number and time, so that no client disturbs training."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event, Thread
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from learner.errors import LearnerError, PortInUse
from learner.page.access import Access

MAX_CONNECTIONS = 64
"""Further connections are answered with 503."""
PATIENCE_S = 30.0
"""Longest time that a connection may be without any traffic."""
RETRY_S = 10.0
"""Time between two attempts to listen on a port that another process uses."""

log = logging.getLogger(__name__)

Traffic = tuple[int, int]
"""Number of events on a connection, and bytes that wait to be sent."""


@contextmanager
def served(app: ASGIApp, access: Access, *, retry_s: float = RETRY_S, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Serve the app inside this context, unless the port is 0.

    A port that another process uses is logged and tried again every `retry_s`, and training does not wait for it. A connection
    without any traffic for `patience_s` is closed. Raises SettingsError for a port that can never be used.
    """
    if not access.port:
        yield
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
            http=partial(_IdleTimeout, patience_s=patience_s),  # type: ignore[arg-type]
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # malformed requests from strangers are not logged; the app logs its own errors
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
        )
    )
    thread = Thread(target=server.serve_on, args=(access, listener, retry_s), name="http", daemon=True)
    thread.start()
    try:
        yield
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


class _IdleTimeout(H11Protocol):
    """Closes a connection that has no traffic in the middle of a request, or of a response that the client does not read.

    uvicorn itself limits only the pause between two requests.
    """

    def __init__(self, *arguments: Any, patience_s: float = PATIENCE_S, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._patience_s = patience_s

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._events = 0
        self._check(None)

    def data_received(self, data: bytes) -> None:
        self._events += 1
        super().data_received(data)

    def resume_writing(self) -> None:
        self._events += 1
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _check(self, before: Traffic | None) -> None:
        now = self._events, self.transport.get_write_buffer_size()
        if now == before:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(self._patience_s, self._check, now)
