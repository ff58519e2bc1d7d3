"""The server of the learner's port: it comes, goes, and is bounded whatever hangs on it."""

from __future__ import annotations

import asyncio
import errno
import itertools
import re
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from http_client import get, is_taken, open_descriptors
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.server import ServerState
from waiting import WAIT_S, until

from benchmarks.shared.machine import free_port
from learner.errors import PortInUse, SettingsError
from learner.http.access import Access
from learner.http.app import app_for
from learner.http.connections import MAX_CONNECTIONS, BoundedConnection
from learner.http.server import BACKLOG, served

LARGE = 12 << 20
"""Bytes: more than a socket takes without a reader."""


def hello(_: Request) -> Response:
    return PlainTextResponse("hello")


def large(_: Request) -> Response:
    return PlainTextResponse("x" * LARGE)


async def endless(_: Request) -> Response:
    return StreamingResponse(itertools.repeat(b"x" * (1 << 16)))


def access() -> Access:
    return Access("127.0.0.1", free_port())


APP = app_for(access(), [Route("/", hello), Route("/large", large), Route("/endless", endless)])


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


def asking(port: int, path: str, header: str = "Accept: */*") -> socket.socket:
    """A client that has asked and does not read; small buffers, so that little goes to it unread."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(WAIT_S)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\n\r\n".encode())
    return client


def test_clients_that_never_read_or_never_end_their_request_are_disconnected_while_others_are_answered() -> None:
    here = access()
    with served(APP, here, head_s=1.0, patience_s=1.0):
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
    """A connection on which so much waits to be sent."""

    waiting = 0
    is_cut = False

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def abort(self) -> None:
        self.is_cut = True


def test_one_that_reads_slowly_is_not_cut_as_long_as_it_reads() -> None:
    line, timers, now_s = Line(), list[Callable[[], None]](), 0.0

    def call_later(_: float, callback: Callable[..., None]) -> None:
        timers.append(callback)

    with closing(asyncio.new_event_loop()) as loop, pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "call_later", call_later)
        patch.setattr(loop, "time", lambda: now_s)
        BoundedConnection(uvicorn.Config(APP), ServerState(), {}, loop, patience_s=1.0).connection_made(line)
        for waiting, is_cut in (30, False), (20, False), (10, False), (10, False), (10, True):
            now_s, line.waiting = now_s + 0.8, waiting
            timers.pop()()
            assert line.is_cut == is_cut


DRIPS = {
    "the head of its request": (b"GET / HTTP/1.1\r\nX: ", b"a"),
    "a body that nobody asked for": (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999999\r\n\r\n", b"a"),
    "a body in chunks": (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    "line ends before its request": (b"\r\n", b"\r\n"),
    "the head of its second request": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET / HTTP/1.1\r\nX: ", b"a"),
}


@pytest.mark.parametrize("drip", DRIPS.values(), ids=DRIPS)
def test_who_sends_byte_by_byte_is_cut_all_the_same(drip: tuple[bytes, bytes]) -> None:
    begin, more = drip
    here = access()
    with (
        served(APP, here, head_s=1.0, patience_s=3600.0),
        socket.create_connection(("127.0.0.1", here.port), WAIT_S) as client,
    ):
        client.sendall(begin)
        until(lambda: not is_taken(client, more))


def test_a_thousand_that_never_ask_take_no_more_places_than_there_are_and_nobody_else_waits_for_them() -> None:
    here = access()
    before, most = open_descriptors(), 0
    with served(APP, here), ExitStack() as held:
        for number in range(1000):
            client = held.enter_context(socket.create_connection(("127.0.0.1", here.port), WAIT_S))
            client.sendall(b"GET / HTTP/1.1\r\nX: ")
            if number % 100 == 99:
                assert get(here.port, "/").text == "hello"
                most = max(most, open_descriptors() - before - number - 1)  # this process has both ends
        assert most <= MAX_CONNECTIONS + BACKLOG + 16


@pytest.mark.parametrize("path", ["/large", "/healthz"])
def test_who_is_being_answered_keeps_its_place_and_a_stranger_does_not(path: str) -> None:
    here = Access("127.0.0.1", free_port(), "correct-horse-battery-staple")
    app = app_for(here, [Route("/large", large), Route("/healthz", large)])
    with served(app, here), ExitStack() as held:
        first = held.enter_context(asking(here.port, path, f"Authorization: Bearer {here.token}"))
        assert first.recv(1)
        for _ in range(2 * MAX_CONNECTIONS):
            held.enter_context(socket.create_connection(("127.0.0.1", here.port), WAIT_S))
        assert get(here.port, "/").status == 401
        assert (len(drained(first)) >= LARGE) == (path == "/large")


def test_a_place_that_all_others_need_goes_to_the_newcomer_when_all_are_being_answered() -> None:
    here = access()
    with served(APP, here), ExitStack() as held:
        for _ in range(MAX_CONNECTIONS):
            assert held.enter_context(asking(here.port, "/endless")).recv(1)
        assert get(here.port, "/").text == "hello"


def test_who_is_not_let_in_gets_one_answer_a_connection() -> None:
    here = Access("127.0.0.1", free_port(), "correct-horse-battery-staple")
    request = b"GET / HTTP/1.1\r\nHost: a\r\n%s\r\n"
    let_in = request % f"Authorization: Bearer {here.token}\r\n".encode()
    for requests, answers in ((request % b"") * 9, 1), (let_in * 3 + (request % b"") * 9, 4):
        with (
            served(app_for(here, [Route("/", hello)]), here),
            socket.create_connection(("127.0.0.1", here.port), WAIT_S) as client,
        ):
            client.sendall(requests)
            assert drained(client).count(b"HTTP/1.1 ") == answers


def test_the_end_waits_for_no_client() -> None:
    here = access()
    with served(APP, here):
        deaf = asking(here.port, "/large")
        deaf.recv(1)
    with deaf:
        assert len(drained(deaf)) < LARGE
