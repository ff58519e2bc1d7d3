"""Who is let in at the learner's port and what the guard makes of everybody else; health; metrics."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from http_client import Answer, get
from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from benchmarks.shared.machine import free_port
from learner.errors import SettingsError
from learner.http import monitoring
from learner.http.access import Access, access_for, page_address
from learner.http.app import COOKIE, app_for
from learner.http.monitoring import HUNG_S, Pulse
from learner.http.server import served

TOKEN = "correct-horse-battery-staple"


def hello(_: Request) -> Response:
    return PlainTextResponse("hello")


def fails(_: Request) -> Response:
    raise RuntimeError("a defect\nof two lines")


@contextmanager
def serving(routes: Sequence[BaseRoute], token: str | None = None) -> Iterator[int]:
    """The port of an app with these routes, a page at / and one that fails."""
    access = Access("127.0.0.1", free_port(), token)
    own = [Route("/", hello), Route("/other", hello), Route("/fails", fails)]
    with served(app_for(access, [*own, *routes]), access):
        yield access.port


@pytest.fixture(scope="module")
def open_port() -> Iterator[int]:
    with serving(monitoring.routes(Pulse(lambda: 0.0), CollectorRegistry())) as port:
        yield port


@pytest.fixture(scope="module")
def guarded_port() -> Iterator[int]:
    with serving(monitoring.routes(Pulse(lambda: 0.0), CollectorRegistry()), TOKEN) as port:
        yield port


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1234", "[::1]:9632", "LOCALHOST"])
def test_without_a_token_the_names_of_this_machine_are_answered_to(open_port: int, host: str) -> None:
    assert get(open_port, "/", Host=host).text == "hello"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.7:9632", "localhost.evil"])
def test_a_foreign_name_that_points_here_is_not(open_port: int, host: str) -> None:
    """Else its site reads the page through the browser of whoever visits it."""
    answer = get(open_port, "/", Host=host)
    assert (answer.status, "hello" in answer.text) == (400, False)


def test_every_answer_forbids_what_the_page_does_not_need(open_port: int) -> None:
    for path in ("/", "/nothing", "/fails", "/healthz"):
        headers = get(open_port, path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; img-src data:;")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({}, "/"),
        ({}, "/other"),
        ({"Authorization": "Bearer wrong-horse-battery-staple"}, "/"),
        ({"Authorization": f"Basic {TOKEN}"}, "/"),
        ({"Authorization": "Bearer"}, "/"),
        ({"Authorization": f"Bearer {TOKEN}x"}, "/"),
        ({"Cookie": f"{COOKIE}=wrong"}, "/"),
        ({"Cookie": f"other={TOKEN}"}, "/"),
        ({"Cookie": f"{COOKIE}=\xff\xfe"}, "/"),
        ({}, "/?token=wrong"),
        ({}, "/?token="),
        ({}, "/?token=%FF%F0%9F"),
        ({}, f"/other?token={TOKEN}"),
    ],
)
def test_nobody_enters_without_the_token(guarded_port: int, headers: dict[str, str], path: str) -> None:
    answer = get(guarded_port, path, **headers)
    assert (answer.status, "hello" in answer.text, "set-cookie" in answer.headers) == (401, False, False)
    assert TOKEN not in answer.text


def form(port: int, text: str) -> Answer:
    """What a posted form is answered."""
    return get(port, "/", method="POST", body=text)


def test_the_token_opens_as_a_header_and_as_the_cookie_that_a_posted_form_becomes(guarded_port: int) -> None:
    assert get(guarded_port, "/other", Authorization=f"Bearer {TOKEN}").text == "hello"
    entered = form(guarded_port, f"token={TOKEN}")
    assert (entered.status, entered.headers["location"]) == (303, "/")
    cookie, *rules = (part.strip() for part in entered.headers["set-cookie"].split(";"))
    assert {"HttpOnly", "SameSite=lax"} <= set(rules)
    assert get(guarded_port, "/other", Cookie=cookie).text == "hello"


@pytest.mark.parametrize(
    "text",
    ["", "token=", "token=wrong", f"other={TOKEN}", f"token=x{TOKEN}", "token=%FF", "\xff", "&a=1" * 9, "x" * 100_000],
)
def test_a_form_without_the_right_token_is_answered_with_the_form_again(guarded_port: int, text: str) -> None:
    answer = form(guarded_port, text)
    assert (answer.status, "set-cookie" in answer.headers) == (401, False)
    assert "That is not the token of this learner" in answer.text


def test_a_link_with_the_token_is_refused_with_the_remedy(guarded_port: int) -> None:
    """Addresses are kept in histories and in the logs of proxies."""
    for path in ("/", "/other"):
        answer = get(guarded_port, f"{path}?token={TOKEN}")
        assert (answer.status, "set-cookie" in answer.headers) == (401, False)
        assert "A token in the address is not taken" in answer.text
        assert TOKEN not in answer.text


def test_a_form_is_no_way_in_where_there_is_no_token(open_port: int) -> None:
    assert form(open_port, f"token={TOKEN}").status == 405
    assert get(open_port, "/", method="POST", Host="evil.example", body="token=x").status == 400


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        ("127.0.0.1", 9632, "http://127.0.0.1:9632/"),
        ("::1", 9, "http://[::1]:9/"),
        ("0.0.0.0", 9632, f"http://{socket.gethostname()}:9632/"),
        ("127.0.0.1", 0, ""),
    ],
)
def test_the_address_of_the_page_is_one_that_a_browser_can_open(host: str, port: int, address: str) -> None:
    assert page_address(host, port) == address


def test_a_browser_without_the_token_is_asked_for_it_and_a_program_told_how(guarded_port: int) -> None:
    assert "<form" in get(guarded_port, "/").text
    told = get(guarded_port, "/other")
    assert told.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer TOKEN" in told.text


def test_health_needs_no_token(guarded_port: int) -> None:
    assert get(guarded_port, "/healthz").status == 200
    assert get(guarded_port, "/readyz").status == 503


def test_a_defect_is_an_answer_and_one_line_in_the_log(open_port: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert get(open_port, "/fails").status == 500
    assert [record.getMessage() for record in caplog.records] == [
        "/fails failed: RuntimeError('a defect\\nof two lines')"
    ]
    assert get(open_port, "/").text == "hello"


def test_the_loop_is_ready_once_it_goes_round_and_hangs_after_too_long_a_silence() -> None:
    now_s = 0.0
    pulse = Pulse(lambda: now_s)

    def asked(port: int) -> tuple[int, int]:
        return get(port, "/healthz").status, get(port, "/readyz").status

    with serving(monitoring.routes(pulse, CollectorRegistry())) as port:
        assert asked(port) == (200, 503)
        pulse.beat()
        assert asked(port) == (200, 200)
        now_s = HUNG_S
        assert asked(port) == (503, 200)
        assert f"no sign of life for {HUNG_S:.0f} s" in get(port, "/healthz").text
        pulse.beat()
        pulse.stopping()
        assert asked(port) == (200, 503)


class Fragile(Collector):
    """A count that can break."""

    broken = False

    def collect(self) -> Iterator[Metric]:
        if self.broken:
            raise RuntimeError("it cannot be counted")
        yield from ()


def test_metrics_are_told_again_each_time_and_one_that_breaks_is_an_error_for_who_asks() -> None:
    registry, fragile = CollectorRegistry(), Fragile()
    count = Counter("steps", "Steps.", registry=registry)
    registry.register(fragile)
    with serving(monitoring.routes(Pulse(lambda: 0.0), registry)) as port:
        assert "steps_total 0.0" in get(port, "/metrics").text
        count.inc()
        answer = get(port, "/metrics")
        assert "steps_total 1.0" in answer.text
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert answer.headers["content-type"].count("charset") == 1
        fragile.broken = True
        assert get(port, "/metrics").status == 500
        fragile.broken = False
        assert get(port, "/metrics").status == 200
        kind = get(port, "/metrics", Accept="application/openmetrics-text; version=1.0.0").headers["content-type"]
        assert kind.startswith("application/openmetrics-text")


def test_an_answer_has_no_body_where_only_its_head_is_asked_for(open_port: int) -> None:
    answer = get(open_port, "/", method="HEAD")
    assert isinstance(answer, Answer)
    assert (answer.status, answer.text, answer.headers["content-length"]) == (200, "", "5")
    assert get(open_port, "/", method="POST").status == 405


def token_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_token_is_read_from_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    access = access_for("0.0.0.0", 9632, token_file(tmp_path, f"{TOKEN}\n"))
    assert access == Access("0.0.0.0", 9632, TOKEN)
    assert TOKEN not in repr(access)
    assert (access.admits(TOKEN), access.admits("x"), access.admits(None)) == (True, False, False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_the_loopback_needs_no_token(host: str) -> None:
    assert access_for(host, 9632, None).admits(None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_any_other_address_needs_one(host: str) -> None:
    with pytest.raises(SettingsError, match=r"can be reached from the network: give --http-token FILE"):
        access_for(host, 9632, None)


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        (TOKEN, 0o640, "is open to others: type `chmod 600"),
        ("short", 0o600, "does not hold one line of 16 to 256 letters"),
        (f"{TOKEN}\n{TOKEN}", 0o600, "does not hold"),
        ("x" * 257, 0o600, "does not hold"),
        ("x" * 100_000, 0o600, "does not hold"),
        ("", 0o600, "does not hold"),
        ("schön-ist-das-leben", 0o600, "does not hold"),
    ],
)
def test_a_token_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, text: str, mode: int, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        access_for("0.0.0.0", 9632, token_file(tmp_path, text, mode))
    assert "\n" not in str(refused.value)
    assert text not in str(refused.value) or not text


def test_a_token_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = token_file(tmp_path, TOKEN, 0o600)
    try:
        os.chown(path, 12345, -1)
    except PermissionError:  # only root may give away; others become another user themselves
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(SettingsError, match="belongs to another user"):
        access_for("0.0.0.0", 9632, path)


def test_a_token_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(SettingsError, match="--http-token"):
            access_for("127.0.0.1", 9632, path)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_there_is_not_is_refused(port: int) -> None:
    with pytest.raises(SettingsError, match=rf"--http-port must be 0 \(none\) to 65535, got {port}"):
        access_for("127.0.0.1", port, None)
