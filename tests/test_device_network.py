"""Network cameras through the real FFmpeg of OpenCV: a server of MJPEG over HTTP stands in for them."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any

import cv2
import numpy as np
import pytest
from waiting import WAIT_S

from device.__main__ import main as device_main
from device.camera import BadShot, CameraMissing, Shot, configure_opencv
from device.cameras import network
from device.cameras.network import NetworkEye
from device.cameras.open import open_camera

PASSWORD = "hush"
IMAGES = [
    cv2.imencode(".jpg", np.hstack([np.full((48, 64, 3), level, np.uint8), np.full((48, 64, 3), 200, np.uint8)]))[
        1
    ].tobytes()
    for level in range(0, 100, 10)
]


class Server(ThreadingHTTPServer):
    """Streams of MJPEG: /left and /right of 20 images a second without end, /short of 5 images; everything else is not there."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.ended = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        kind = self.path.partition("?")[0]
        if kind not in ("/left", "/right", "/short"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(5 if kind == "/short" else 10**6):
            jpeg = IMAGES[number % len(IMAGES)]
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:
                return
            if self.server.ended.wait(0.05):
                return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that is waited for, however busy this machine is."""
    configure_opencv()
    for limit in ("TIMEOUT_S", "STOPPED_S"):
        monkeypatch.setattr(network, limit, WAIT_S)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()


def address(server: Server, path: str) -> str:
    return f"http://user:{PASSWORD}@127.0.0.1:{server.server_port}/{path}"


def test_two_network_cameras_are_paired_by_arrival_and_their_jpeg_is_forwarded(server: Server) -> None:
    with closing(open_camera(f"{address(server, 'left?a=1,2')},{address(server, 'right')}")) as camera:
        shots = [shot for shot in islice(camera, 20) if isinstance(shot, Shot)]
    assert len(shots) == 20
    assert sorted(server.asked) == ["/left?a=1,2", "/right"]
    assert all(shot.left.jpeg in IMAGES and shot.right.jpeg in IMAGES for shot in shots)
    stamps = [shot.left.captured_ns for shot in shots]
    assert stamps == sorted(set(stamps))
    assert abs(stamps[-1] - time.time_ns()) < 60e9


def test_one_network_camera_with_both_eyes_is_split(server: Server) -> None:
    spec = address(server, "left").replace("http:", "http-sbs:")
    with closing(open_camera(spec)) as camera:
        (shot,) = islice(camera, 1)
    assert isinstance(shot, Shot)
    assert shot.left.shape() == (48, 64, 3)
    assert shot.right.pixels is not None
    assert shot.right.pixels.mean() == pytest.approx(200, abs=3)


def test_a_stream_that_ends_is_opened_again(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    eye = NetworkEye(address(server, "short"), pauses_s=(0.01, 0.02))
    with caplog.at_level(logging.WARNING), closing(eye):
        eye.wait_until_open()
        for _ in range(12):
            eye.take()
    assert server.asked.count("/short") >= 3
    assert "/short has ended; it is opened again" in caplog.text
    assert PASSWORD not in caplog.text


def test_pauses_grow_while_a_camera_does_not_answer() -> None:
    waits_s: list[float] = []
    enough, ended = threading.Event(), threading.Event()

    def wait(pause_s: float) -> None:
        waits_s.append(pause_s)
        if len(waits_s) == 7:
            enough.set()
            ended.wait(WAIT_S)

    with closing(NetworkEye("rtsp://127.0.0.1/x", open_it=lambda _: None, wait=wait)) as eye:
        assert enough.wait(WAIT_S)
        assert waits_s == [1, 2, 4, 8, 16, 30, 30]
        with pytest.raises(CameraMissing, match=r"rtsp://127\.0\.0\.1/x gives no video"):
            eye.wait_until_open()
        ended.set()


def test_a_camera_that_gives_nothing_is_a_bad_shot_and_the_other_one_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "STOPPED_S", 0.05)
    with closing(NetworkEye(address(server, "missing"), pauses_s=(10.0, 10.0))) as eye, pytest.raises(BadShot) as bad:
        eye.take()
    assert "connected again when it answers" in str(bad.value)
    assert PASSWORD not in str(bad.value)


def test_a_camera_that_does_not_answer_is_exit_code_1_and_its_password_is_not_shown(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = f"{address(server, 'left')},{address(server, 'missing')}"
    assert device_main(["--camera", spec, "--bind", "tcp://127.0.0.1:0", "--spool", "none"]) == 1
    printed = capfd.readouterr()
    assert f"error: http://***@127.0.0.1:{server.server_port}/missing gives no video: check the address" in printed.err
    assert len(printed.err.splitlines()) == 1, "FFmpeg must not add lines of its own"
    assert PASSWORD not in printed.out + printed.err


def test_doctor_and_the_settings_line_do_not_show_a_password(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    spec = f"{address(server, 'left')},{address(server, 'right')}"
    common = ["--camera", spec, "--bind", "tcp://127.0.0.1:0", "--spool", "none"]
    device_main(["doctor", *common, "--json"])
    printed = capfd.readouterr()
    assert {"camera", "skew"} <= {finding["what"] for finding in json.loads(printed.out)}
    assert PASSWORD not in printed.out + printed.err
    assert device_main([*common, "--count", "3", "--wait-for-learner", "no"]) == 0
    printed = capfd.readouterr()
    assert "camera=http://***@127.0.0.1" in printed.err
    assert PASSWORD not in printed.out + printed.err
