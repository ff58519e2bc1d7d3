"""The connections of the learner's port: bounded in number and in time, so that strangers neither fill it nor hold it.

A new connection always gets a place. If all are taken, the connection that has waited longest gives up its own: one that
has not sent its request, or that sends it byte by byte. One whose request was let in keeps its place as long as it can.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 64
HEAD_S = 10.0
"""Longest time from the beginning of a connection, or the end of a response, to the end of the head of the next request."""
PATIENCE_S = 30.0
"""Longest time that a response may wait for a client that reads nothing."""
CHECK_S = 0.5
"""Time between two looks at a connection."""
LET_IN = "let_in"
"""In the state of a request: what the app calls once the request is allowed."""


class BoundedConnection(H11Protocol):
    """A connection that is closed when it takes too long, or when a new one needs its place.

    uvicorn itself limits only the pause between two requests.
    """

    def __init__(self, *arguments: Any, head_s: float = HEAD_S, patience_s: float = PATIENCE_S, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.app_state = {**self.app_state, LET_IN: self._let_in}
        self.moved_s = 0.0
        """When it last made progress: it was opened, its request was let in or answered, or some of a response was read."""
        self._head_s = head_s
        self._patience_s = patience_s
        self._is_let_in = False
        self._unsent_bytes = 0

    @property
    def is_answering(self) -> bool:
        """Whether a request has come whose response has not gone out whole."""
        return bool(self.cycle and not self.cycle.response_complete) or self.transport.get_write_buffer_size() > 0

    @property
    def is_served(self) -> bool:
        """Whether it has an allowed request that is not answered yet."""
        return self._is_let_in and self.is_answering

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, from another connection if none is free."""
        super().connection_made(transport)
        self.moved_s = self.loop.time()
        self._timer = self.loop.call_later(CHECK_S, self._check)
        if len(self.connections) > MAX_CONNECTIONS:
            others = cast("set[BoundedConnection]", self.connections - {self})
            gone = min(others, key=lambda connection: (connection.is_served, connection.moved_s))
            self.connections.discard(gone)  # at once: its transport tells it of its end only later
            gone.transport.abort()

    def resume_writing(self) -> None:
        """Note that the client reads."""
        self.moved_s = self.loop.time()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self.moved_s = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the place."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _let_in(self) -> None:
        self._is_let_in = True
        self.moved_s = self.loop.time()

    def _check(self) -> None:
        now_s, unsent_bytes = self.loop.time(), self.transport.get_write_buffer_size()
        if unsent_bytes < self._unsent_bytes:
            self.moved_s = now_s
        self._unsent_bytes = unsent_bytes
        if now_s - self.moved_s > (self._patience_s if self.is_answering else self._head_s):
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(CHECK_S, self._check)
