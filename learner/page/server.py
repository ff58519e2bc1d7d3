"""The HTTP server in a thread of its own, bounded: whoever hangs on it costs a connection for a while, never training."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from learner.page.door import Door

MOST_CONNECTIONS = 64
"""More are answered with 503."""
PATIENCE_S = 30.0
"""A connection on which nothing moves for so long is cut."""

Moved = tuple[int, int]
"""How often something came or went on, and the bytes that wait to go."""


@contextmanager
def served(app: ASGIApp, door: Door) -> Iterator[None]:
    """Answer at the door meanwhile, where it has a port. Raises SettingsError in one line where that cannot be had."""
    if not door.port:
        yield
        return
    with door.listen() as listener:
        server = _Server(
            uvicorn.Config(
                app,
                http=_Patient,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # what strangers send is not worth a line each; the app logs its own errors
                server_header=False,
                limit_concurrency=MOST_CONNECTIONS,
            )
        )
        thread = Thread(target=server.run, args=([listener],), name="http", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """At once: a learner that stops waits for no client."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


class _Patient(H11Protocol):
    """Cuts a connection once nothing moved on it for PATIENCE_S: half a request, or an answer that nobody reads.

    uvicorn itself has a limit for the pause between two requests only.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._moves = 0
        self._look(None)

    def data_received(self, data: bytes) -> None:
        self._moves += 1
        super().data_received(data)

    def resume_writing(self) -> None:
        self._moves += 1
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self, before: Moved | None) -> None:
        now = self._moves, self.transport.get_write_buffer_size()
        if now == before:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(PATIENCE_S, self._look, now)
