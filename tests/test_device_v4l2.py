"""USB cameras through the real OpenCV, over a stand-in of V4L2's ioctls that is compiled here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from running import ROOT, environment
from waiting import WAIT_S

from device.camera import CameraMissing
from device.cameras.open import open_camera

Shots = Callable[..., list[dict[str, Any]]]
FRAME_MS = 1000 / 30


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) to make the stand-in of V4L2 with")
    library = tmp_path_factory.mktemp("stand_in") / "v4l2.so"
    source = ROOT / "tests" / "v4l2_stand_in.c"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=WAIT_S)
    return library


@pytest.fixture
def shots(stand_in: Path, tmp_path: Path) -> Shots:
    """Opens cameras such as "v4l2:left,right+shift8", whose devices are made, and returns what each gave."""

    def run(*cameras: str, count: int = 20) -> list[dict[str, Any]]:
        specs = []
        for camera in cameras:
            kind, _, names = camera.partition(":")
            devices = [tmp_path / f"{name}.v4l2" for name in names.split(",")]
            for eye, device in enumerate(devices):
                device.touch()
                image = picture(eye) if kind == "v4l2" else both(kind)
                Path(f"{device}.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
            specs.append(f"{kind}:{','.join(map(str, devices))}")
        done = subprocess.run(
            [sys.executable, ROOT / "tests" / "v4l2_shots.py", str(count), *specs],
            env=environment() | {"LD_PRELOAD": str(stand_in), "OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT": "5"},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def picture(eye: int) -> np.ndarray[Any, Any]:
    return np.full((48, 64, 3), 60 + 100 * eye, np.uint8)


def both(kind: str) -> np.ndarray[Any, Any]:
    return (np.hstack if kind == "v4l2-sbs" else np.vstack)([picture(0), picture(1)])


def skews_ms(found: dict[str, Any]) -> list[float]:
    return [abs(right["ns"] - left["ns"]) / 1e6 for left, right in found["shots"]]


def test_images_of_both_cameras_are_of_one_moment_or_half_a_frame_apart_at_most(shots: Shots) -> None:
    shifts_ms = (0, 8, 16, 25)
    found = shots(*(f"v4l2:left,right+shift{shift_ms}" for shift_ms in shifts_ms), "v4l2:left,right+start300")
    for shift_ms, run in zip((*shifts_ms, 0), found, strict=True):
        skews = skews_ms(run)
        assert len(skews) == 20, run["error"]
        nearest_ms = min(shift_ms, FRAME_MS - shift_ms)
        assert statistics.median(skews) == pytest.approx(nearest_ms, abs=1.5)
        assert max(skews) <= (1.0 if shift_ms == 0 else FRAME_MS / 2 + 1.0), "from the first pair on"


def test_in_the_dark_cameras_that_are_slower_than_they_say_are_still_paired(shots: Shots) -> None:
    (found,) = shots("v4l2:left+slow,right+slow+shift40", count=8)
    assert len(found["shots"]) == 8
    assert max(skews_ms(found)) == pytest.approx(40, abs=0.5)


def test_the_jpeg_of_two_cameras_is_forwarded_and_a_camera_without_it_gives_pixels(
    shots: Shots, tmp_path: Path
) -> None:
    (found,) = shots("v4l2:left,right+yuyv", count=2)
    left, right = found["shots"][0]
    assert left["jpeg"] == hashlib.sha256((tmp_path / "left.v4l2.jpg").read_bytes()).hexdigest()
    assert (right["jpeg"], right["shape"]) == (None, [48, 64, 3])


def test_the_exposure_time_is_set_in_the_drivers_units_and_the_automatic_one_is_off(
    shots: Shots, tmp_path: Path
) -> None:
    shots("v4l2-sbs:both", count=1)
    assert (tmp_path / "both.v4l2.controls").read_text() == "1 80"  # V4L2_EXPOSURE_MANUAL, 100 us


@pytest.mark.parametrize("kind", ["v4l2-sbs", "v4l2-tb"])
def test_one_camera_with_both_eyes_is_split_where_they_meet(shots: Shots, kind: str) -> None:
    (found,) = shots(f"{kind}:both", count=3)
    for left, right in found["shots"]:
        assert left["shape"] == right["shape"] == [48, 64, 3]
        assert left["edge"] == pytest.approx([60, 60], abs=3)
        assert right["edge"] == pytest.approx([160, 160], abs=3)
        assert left["ns"] == right["ns"]


def test_a_camera_that_stops_or_is_busy_ends_in_one_line_and_exit_code_1(shots: Shots) -> None:
    stopped, busy = shots("v4l2:left,right+stop10", "v4l2:left,right+busy", count=100)
    assert len(stopped["shots"]) in range(5, 11)
    assert "right+stop10.v4l2 gave no image for 5 s: is the camera unplugged?" in stopped["error"]
    assert "no camera at" in busy["error"]
    assert [run["code"] for run in (stopped, busy)] == [1, 1]


def test_a_device_that_this_user_may_not_open_names_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "video").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(CameraMissing, match="usermod -aG video"):
        open_camera(f"v4l2-sbs:{tmp_path / 'video'}")
