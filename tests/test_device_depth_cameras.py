"""OAK-D and RealSense over fakes of their packages, whose functions have the signatures of the real ones."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fake_depth_cameras import Depthai, RealSense

from device.camera import BadShot, CameraError, CameraMissing, CameraSettings, Shot
from device.cameras.open import open_camera

MS = 1_000_000
DEPTHAI = {
    "Device": "(deviceInfo)",
    "Device.close": "()",
    "DeviceInfo": "(deviceIdOrName)",
    "Pipeline": "(defaultDevice)",
    "Pipeline.create": "(arg0, *args, **kwargs)",
    "Pipeline.start": "()",
    "Pipeline.stop": "()",
    "Pipeline.isRunning": "()",
    "Pipeline.getDefaultDevice": "()",
    "node.Camera.build": "(boardSocket, sensorResolution, sensorFps)",
    "node.Camera.requestOutput": "(size, type, resizeMode, fps, enableUndistortion, alphaScaling)",
    "Node.Output.createOutputQueue": "(maxSize, blocking)",
    "CameraControl.setManualExposure": "(exposureTimeUs, sensitivityIso)",
    "MessageQueue.get": "(timeout)",
    "ImgFrame.getCvFrame": "()",
    "ImgFrame.getTimestamp": "()",
    "Clock.now": "()",
}
"""Of the stubs of depthai 3.12.0; of several overloads the one that is used. `Device` may also be called without arguments."""
REALSENSE = {
    "pipeline": "()",
    "pipeline.start": "(config)",
    "pipeline.stop": "()",
    "pipeline.wait_for_frames": "(timeout_ms)",
    "config": "()",
    "config.enable_device": "(serial)",
    "config.enable_stream": "(stream_type, stream_index, width, height, format, framerate)",
    "pipeline_profile.get_device": "()",
    "device.first_depth_sensor": "()",
    "depth_sensor.supports": "(arg0)",
    "depth_sensor.set_option": "(option, value)",
    "composite_frame.get_infrared_frame": "(index)",
    "video_frame.get_timestamp": "()",
    "video_frame.get_frame_timestamp_domain": "()",
    "video_frame.get_data": "()",
}
"""Of the docstrings of pyrealsense2 2.59.1.11053."""


def function(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


@pytest.mark.parametrize(("fake", "table"), [(Depthai(), DEPTHAI), (RealSense(), REALSENSE)])
def test_the_fakes_have_the_signatures_of_the_real_packages(fake: ModuleType, table: dict[str, str]) -> None:
    for path, signature in table.items():
        found = function(fake, path)
        parameters = inspect.signature(found).parameters.values()
        names = [str(one).split(":")[0].split("=")[0].strip() for one in parameters if one.name != "self"]
        assert f"({', '.join(names)})" == signature, path


@pytest.mark.parametrize(("package", "table"), [("depthai", DEPTHAI), ("pyrealsense2", REALSENSE)])
def test_the_real_package_has_these_signatures(package: str, table: dict[str, str]) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed here")
    module = importlib.import_module(package)
    for path, signature in table.items():
        found = function(module, path)
        called = function(found, "__init__") if inspect.isclass(found) else found
        assert signature in set(documented(called.__doc__)), path


def documented(text: str) -> Iterator[str]:
    """The names of the parameters of each overload, as pybind11 writes them into a docstring."""
    for parameters in re.findall(r"\w+\((.*)\) -> ", text):
        plain = re.sub(r"<[^>]*>", "", parameters)
        while "[" in plain:
            plain = re.sub(r"\[[^\[\]]*\]", "", plain)
        names = [one.split(":")[0].strip() for one in plain.split(", ")]
        yield f"({', '.join(name for name in names if name and name != 'self')})"


@pytest.fixture
def depthai(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Depthai]:
    def install(**how: Any) -> Depthai:
        fake = Depthai(**how)
        monkeypatch.setitem(sys.modules, "depthai", fake)
        return fake

    return install


@pytest.fixture
def realsense(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RealSense]:
    def install(**how: Any) -> RealSense:
        fake = RealSense(**how)
        monkeypatch.setitem(sys.modules, "pyrealsense2", fake)
        return fake

    return install


def test_an_oak_gives_pairs_of_one_moment_at_the_wanted_size_and_rate(depthai: Callable[..., Depthai]) -> None:
    fake = depthai()
    camera = open_camera("oak", CameraSettings(size=(400, 640), fps=20, exposure_us=4000))
    shots = list(islice(camera, 20))
    assert fake.calls == [
        None,
        (4000, 400),
        ("left", (640, 400), "grey", 20),
        (4000, 400),
        ("right", (640, 400), "grey", 20),
    ]
    now_ns = time.time_ns()
    for number, shot in enumerate(shots):
        assert isinstance(shot, Shot)
        assert shot.left.captured_ns == shot.right.captured_ns
        assert shot.left.shape() == (400, 640, 1)
        assert abs(shot.left.captured_ns - (6 + number) * 50 * MS - now_ns) < 60_000 * MS, "moved to the host's clock"
    assert camera.fps == 20
    camera.close()
    assert fake.closed


def test_an_oak_is_chosen_by_its_name_and_gives_colour(depthai: Callable[..., Depthai]) -> None:
    fake = depthai()
    (shot,) = islice(open_camera("oak:192.168.1.44?colour=1"), 1)
    assert fake.calls[:2] == ["192.168.1.44", ("left", (1280, 720), "colour", 30.0)]
    assert isinstance(shot, Shot)
    assert shot.right.shape() == (720, 1280, 3)
    for wrong in ("oak:?colour=yes", "oak:?color=1"):
        with pytest.raises(CameraError, match=r"colou?r") as refusal:
            open_camera(wrong)
        assert refusal.value.exit_code == 2


def test_an_oak_that_is_missing_or_stops_is_one_line_and_exit_code_1(depthai: Callable[..., Depthai]) -> None:
    depthai(fails="No available devices")
    with pytest.raises(CameraMissing, match="oak does not open: No available devices: look at its cable"):
        open_camera("oak")
    depthai(frames=10)
    camera = open_camera("oak")
    with pytest.raises(CameraMissing, match=r"oak (left|right) gave no image for 5 s"):
        list(camera)


def test_a_realsense_gives_both_infrared_images_without_its_dots(realsense: Callable[..., RealSense]) -> None:
    fake = realsense()
    camera = open_camera("realsense:0123", CameraSettings(size=(480, 848), exposure_us=5000))
    shots = list(islice(camera, 3))
    assert fake.calls == [
        "0123",
        ("infrared", 1, 848, 480, "y8", 30),
        ("infrared", 2, 848, 480, "y8", 30),
        ("emitter_enabled", 0.0),
        ("auto", 0.0),
        ("exposure", 5000),
    ]
    for number, shot in enumerate(shots):
        assert isinstance(shot, Shot)
        assert shot.left.shape() == (480, 848, 1)
        assert [set(np.unique(eye.pixels)) for eye in (shot.left, shot.right) if eye.pixels is not None] == [{1}, {2}]
        assert abs(shot.left.captured_ns - (1_700_000_000_010 * MS + round(number * 1e9 / 30))) < 10 * MS
        assert abs(shot.right.captured_ns - shot.left.captured_ns - 10_000) < 1000
    camera.close()
    camera.close()
    assert not fake.running


def test_times_of_a_realsense_without_the_hosts_clock_are_of_now(realsense: Callable[..., RealSense]) -> None:
    realsense(domain="hardware")
    (shot,) = islice(open_camera("realsense"), 1)
    assert isinstance(shot, Shot)
    assert abs(shot.left.captured_ns - time.time_ns()) < 60_000 * MS
    assert abs(shot.right.captured_ns - shot.left.captured_ns - 10_000) < 1000


def test_a_realsense_that_is_missing_wrongly_set_or_stops_is_one_line(realsense: Callable[..., RealSense]) -> None:
    realsense(fails="No device connected")
    with pytest.raises(CameraMissing, match="realsense does not open: No device connected: look at its cable"):
        open_camera("realsense")
    realsense(fails="Couldn't resolve requests")
    with pytest.raises(CameraError, match="no grey stereo images of 650x480 at 30 Hz") as refusal:
        open_camera("realsense", CameraSettings(size=(480, 650)))
    assert refusal.value.exit_code == 2
    realsense(frames=3, empty=1)
    shots: list[Shot | BadShot] = []
    with pytest.raises(CameraMissing, match="gave no image for 5 s"):
        shots.extend(open_camera("realsense"))
    assert [type(shot) for shot in shots] == [Shot, BadShot, Shot]
    with pytest.raises(CameraError, match="realsense has no option colour: it has none"):
        open_camera("realsense:?colour=1")


@pytest.mark.parametrize(("name", "package"), [("oak", "depthai"), ("realsense", "pyrealsense2")])
def test_a_missing_package_names_its_extra(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CameraError, match=rf"{package} is not installed: pip install -e '.\[{name}\]'") as refusal:
        open_camera(name)
    assert refusal.value.exit_code == 2
