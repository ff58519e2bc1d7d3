"""What systemd hears of a service: datagrams on a real socket, from the class and from the real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_learner import FLAGS
from waiting import WAIT_S

from stream.host.systemd import MAX_STATUS_CHARS, Supervisor

ROOT = Path(__file__).parents[1]
PERIOD_S = 1.0
"""Of the watchdog. A socket holds ten messages that nobody has read yet, which is some five times as long."""


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(WAIT_S)
        yield heard


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def messages(heard: socket.socket) -> list[str]:
    """All that has come, without waiting."""
    found = []
    heard.setblocking(False)
    try:
        while True:
            found.append(heard.recv(4096).decode())
    except BlockingIOError:
        return found


def test_the_first_round_is_ready_and_each_feeds_the_watchdog_twice_in_its_patience(systemd: socket.socket) -> None:
    clock = Clock()
    environ = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}
    supervisor = Supervisor(environ, clock)
    for round_number in range(41):
        clock.now_s = 100 + round_number / 10
        supervisor.alive(lambda: f"round {round_number}")  # noqa: B023 - asked at once
    supervisor.stopping()
    supervisor.close()
    supervisor.stopping()
    assert messages(systemd) == [
        "READY=1\nWATCHDOG=1\nSTATUS=round 0",
        "WATCHDOG=1\nSTATUS=round 20",
        "WATCHDOG=1\nSTATUS=round 40",
        "STOPPING=1",
    ]


@pytest.mark.parametrize(
    "watchdog", [{}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}], ids=str
)
def test_where_nobody_watches_this_process_the_status_is_told_now_and_then(
    systemd: socket.socket, watchdog: dict[str, str]
) -> None:
    clock = Clock()
    supervisor = Supervisor({"NOTIFY_SOCKET": systemd.getsockname()} | watchdog, clock)
    for _ in range(11):
        supervisor.alive(lambda: "well")
        clock.now_s += 1
    supervisor.close()
    assert len(messages(systemd)) == 3


def test_a_status_is_one_bounded_line_and_cannot_say_anything_else(systemd: socket.socket) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": systemd.getsockname()}, Clock())
    supervisor.alive(lambda: "a\nMAINPID=1\n" + "b" * 10_000)
    supervisor.close()
    (message,) = messages(systemd)
    assert message.splitlines()[:2] == ["READY=1", "WATCHDOG=1"]
    assert message.splitlines()[2:] == ["STATUS=a MAINPID=1 " + "b" * (MAX_STATUS_CHARS - 12)]


def test_an_abstract_socket_is_heard_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("")  # Linux gives it an abstract name
        supervisor = Supervisor({"NOTIFY_SOCKET": "@" + heard.getsockname()[1:].decode()}, Clock())
        supervisor.stopping()
        supervisor.close()
        assert messages(heard) == ["STOPPING=1"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/notify"}], ids=str)
def test_without_anybody_who_listens_nothing_happens(environ: dict[str, str]) -> None:
    supervisor = Supervisor(environ, Clock())
    supervisor.alive(lambda: "well")
    supervisor.stopping()
    supervisor.close()


def test_a_systemd_that_does_not_read_blocks_nobody(systemd: socket.socket) -> None:
    clock = Clock()
    supervisor = Supervisor({"NOTIFY_SOCKET": systemd.getsockname()}, clock)
    for _ in range(5000):
        clock.now_s += 10
        supervisor.alive(lambda: "x" * MAX_STATUS_CHARS)
    supervisor.close()


@contextmanager
def service(heard: socket.socket, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process as systemd would start it; what it prints goes nowhere."""
    environ = os.environ | {
        "NOTIFY_SOCKET": heard.getsockname(),
        "WATCHDOG_USEC": str(int(PERIOD_S * 1e6)),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", *words]
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_rig_is_ready_with_its_first_shot_feeds_the_watchdog_and_says_that_it_stops(systemd: socket.socket) -> None:
    with service(systemd, "device", "--bind", "tcp://127.0.0.1:0", "--size", "64x48", "--places", "1") as rig:
        first = systemd.recv(4096).decode()
        assert first.startswith("READY=1\nWATCHDOG=1\nSTATUS=captured 1,")
        assert systemd.recv(4096).decode().startswith("WATCHDOG=1\nSTATUS=captured ")
        rig.send_signal(signal.SIGTERM)
        while systemd.recv(4096) != b"STOPPING=1":  # read on: what the socket has no room for is not sent
            pass
        assert rig.wait(WAIT_S) == 0
    assert messages(systemd) == []


HANGS = """
import threading, time
import numpy as np
from device.camera import EyeImage, Shot

class Camera:
    fps = None

    def __init__(self, settings):
        pass

    def __iter__(self):
        eye = EyeImage(time.time_ns(), pixels=np.full((48, 64), 90, np.uint8))
        yield Shot(eye, eye)
        threading.Event().wait()

    def close(self):
        pass
"""


def test_a_rig_whose_camera_hangs_does_not_feed_the_watchdog(
    systemd: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hanging.py").write_text(HANGS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = ("--camera", "hanging:Camera", "--wait-for-learner", "no")
    with service(systemd, "device", "--bind", "tcp://127.0.0.1:0", *words):
        assert systemd.recv(4096).decode().startswith("READY=1")
        systemd.settimeout(2 * PERIOD_S)
        with pytest.raises(TimeoutError):
            systemd.recv(4096)


def test_a_learner_that_waits_for_its_rig_is_ready_and_alive_and_says_that_it_stops(
    systemd: socket.socket, tmp_path: Path
) -> None:
    words = ("--connect", "tcp://127.0.0.1:1", "--run-dir", str(tmp_path / "run"), "--http-port", "0")
    with service(systemd, "learner", *FLAGS, *words) as learner:
        assert systemd.recv(4096).decode().startswith("READY=1\nWATCHDOG=1\nSTATUS=probing digits")
        while "waiting for a device at tcp://127.0.0.1:1" not in systemd.recv(4096).decode():
            pass
        learner.send_signal(signal.SIGTERM)
        while systemd.recv(4096) != b"STOPPING=1":  # the report, which takes a while, is not waited for
            pass
