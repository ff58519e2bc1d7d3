"""The server of the learner's port: it comes, goes, and is bounded whatever hangs on it."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from http_client import WAIT_S, free_port, get
from link_steps import until
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.server import ServerState

from learner.errors import PortInUse, SettingsError
from learner.page.access import Access
from learner.page.app import app_for
from learner.page.server import MAX_CONNECTIONS, _IdleTimeout, served

LARGE = 32 << 20
"""Bytes: more than a socket takes without a reader."""


def hello(_: Request) -> Response:
    return PlainTextResponse("hello")


def large(_: Request) -> Response:
    return PlainTextResponse("x" * LARGE)


def access() -> Access:
    return Access("127.0.0.1", free_port())


APP = app_for(access(), [Route("/", hello), Route("/large", large)])


def test_it_answers_meanwhile_and_the_port_is_free_again_afterwards() -> None:
    here = access()
    for _ in range(2):
        with served(APP, here):
            assert get(here.port, "/").text == "hello"
    with pytest.raises(ConnectionRefusedError):
        get(here.port, "/")


def test_port_0_serves_nothing() -> None:
    before = threading.active_count()
    with served(APP, Access("127.0.0.1", 0)):
        assert threading.active_count() == before


def test_a_port_in_use_is_logged_in_one_line_and_served_once_it_is_free(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        with served(APP, Access("127.0.0.1", port), retry_s=0.05):
            said = caplog.messages[0]
            assert re.fullmatch(rf"http port {port} on 127.0.0.1 cannot be used .*--http-port, 0 for none; .*", said)
            taken.close()
            until(lambda: "free now" in caplog.messages[-1])
            assert get(port, "/").text == "hello"


def test_who_waits_for_a_port_goes_on_waiting_when_the_machine_has_no_socket_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, real, failures = access(), socket.create_server, [errno.EADDRINUSE, errno.EMFILE, errno.ENOBUFS]

    def failing_first(*arguments: Any, **settings: Any) -> socket.socket:
        if failures:
            raise OSError(failures.pop(0), "not now")
        return real(*arguments, **settings)

    monkeypatch.setattr(socket, "create_server", failing_first)
    with served(APP, here, retry_s=0.02):
        until(lambda: "free now" in caplog.text)
        assert failures == []
        assert get(here.port, "/").text == "hello"


def test_a_server_that_waits_for_a_port_ends_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with served(APP, Access("127.0.0.1", taken.getsockname()[1]), retry_s=3600.0):
            pass
    assert "http" not in {thread.name for thread in threading.enumerate()}


def test_an_address_that_is_not_there_yet_is_waited_for_and_a_port_for_others_is_refused(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(APP, Access("192.0.2.1", free_port())):  # RFC 5737: nobody's
        assert "192.0.2.1 cannot be used" in caplog.text

    def forbidden(*_: object, **__: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", forbidden)
    with pytest.raises(SettingsError, match=r"http port 80 .*Permission denied") as refused:
        Access("127.0.0.1", 80).listen()
    assert not isinstance(refused.value, PortInUse)


def asking(port: int, path: str) -> socket.socket:
    """A client that has asked and does not read; small buffers, so that little goes to it unread."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(WAIT_S)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return client


def test_clients_that_never_read_or_never_end_their_request_are_disconnected_while_others_are_answered() -> None:
    here = access()
    with served(APP, here, patience_s=1.0):
        deaf = asking(here.port, "/large")
        mute = socket.create_connection(("127.0.0.1", here.port), WAIT_S)
        mute.sendall(b"GET / HTTP/1.1\r\nHost:")
        silent = socket.create_connection(("127.0.0.1", here.port), WAIT_S)
        assert get(here.port, "/").text == "hello"
        for client in (mute, silent):
            with client:
                assert drained(client) == b""
        with deaf:
            until(lambda: not is_established(here.port, deaf))  # it reads only after it was disconnected
            assert len(drained(deaf)) < LARGE


def is_established(port: int, client: socket.socket) -> bool:
    """Whether the server, on this port, still has its connection to the client open."""
    ends = f":{port:04X}", f":{client.getsockname()[1]:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any((local[-5:], remote[-5:], state) == (*ends, "01") for _, local, remote, state, *_ in lines)


def drained(client: socket.socket) -> bytes:
    """All that still comes."""
    parts = []
    try:
        while part := client.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


class Line(asyncio.Transport):
    """A connection whose reader is slow: of what waits to go a little less is left each time it is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = [30, 20, 10, 10]
        self.is_cut = False

    def get_write_buffer_size(self) -> int:
        return self.waiting.pop(0)

    def abort(self) -> None:
        self.is_cut = True


def test_one_that_reads_slowly_is_not_cut_as_long_as_it_reads() -> None:
    line, timers = Line(), list[Callable[[], None]]()

    def call_later(_: float, callback: Callable[..., None], *words: object) -> None:
        timers.append(lambda: callback(*words))

    with closing(asyncio.new_event_loop()) as loop, pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "call_later", call_later)
        _IdleTimeout(uvicorn.Config(APP), ServerState(), {}, loop).connection_made(line)
        for is_cut in (False, False, True):
            timers.pop()()
            assert line.is_cut == is_cut


def test_more_connections_than_there_is_room_for_are_turned_away_and_there_is_room_again() -> None:
    here = access()
    with served(APP, here):
        held = [socket.create_connection(("127.0.0.1", here.port), WAIT_S) for _ in range(MAX_CONNECTIONS)]
        assert get(here.port, "/").status == 503
        for client in held:
            client.close()
        deadline_s = time.monotonic() + WAIT_S
        while get(here.port, "/").status == 503:
            assert time.monotonic() < deadline_s
        assert get(here.port, "/").text == "hello"


def test_the_end_waits_for_no_client() -> None:
    here = access()
    with served(APP, here):
        deaf = asking(here.port, "/large")
        deaf.recv(1)
    with deaf:
        assert len(drained(deaf)) < LARGE
