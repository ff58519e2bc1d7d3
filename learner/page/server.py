"""The HTTP server in a thread of its own, bounded: whoever hangs on it costs a connection for a while, never training."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from learner.errors import LearnerError, PortInUse
from learner.page.access import Door

MAX_CONNECTIONS = 64
"""More are answered with 503."""
PATIENCE_S = 30.0
"""A connection on which nothing moves for so long is cut."""

AGAIN_S = 10.0
"""How often a port that somebody else has is tried again."""

log = logging.getLogger(__name__)

Moved = tuple[int, int]
"""How often something came or went on, and the bytes that wait to go."""


@contextmanager
def served(app: ASGIApp, door: Door) -> Iterator[None]:
    """Answer at the door meanwhile, where it has a port.

    One that somebody else has is said, and tried again every AGAIN_S: training does not wait for it. Raises SettingsError in
    one line for one that can never be had.
    """
    if not door.port:
        yield
        return
    try:
        listener = door.listen()
    except PortInUse as error:
        log.warning(
            "%s; until it is free there is no page, /metrics or /weights here; tried again every %g s", error, AGAIN_S
        )
        listener = None
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
            limit_concurrency=MAX_CONNECTIONS,
        )
    )
    thread = Thread(target=server.answer, args=(door, listener), name="http", daemon=True)
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

    def answer(self, door: Door, listener: socket.socket | None) -> None:
        """Until `end`, as soon as there is a listener."""
        while listener is None and not self._ended.wait(AGAIN_S):
            with suppress(LearnerError):
                listener = door.listen()
                log.warning("http port %d on %s is free now: the page is there", door.port, door.host)
        if listener is not None:
            with listener:
                self.run([listener])

    def end(self) -> None:
        """From any thread."""
        self._ended.set()
        self.should_exit = True

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
