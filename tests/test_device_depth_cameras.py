"""OAK-D and RealSense over fakes of their packages, whose functions have the signatures of the real ones."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

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


class Depthai(ModuleType):
    """A device whose frames come at 30 Hz of its clock, the right ones from 200 ms on; `calls` is what it was asked for."""

    def __init__(self, *, frames: int = 10**9, fails: str = "") -> None:
        super().__init__("depthai")
        fake = self
        self.calls: list[Any] = []
        self.closed = 0
        started = timedelta(seconds=100)

        class Device:
            def __init__(self, deviceInfo: Any = None) -> None:
                if fails:
                    raise RuntimeError(fails)
                fake.calls.append(deviceInfo and deviceInfo.name)

            def close(self) -> None:
                fake.closed += 1

        class DeviceInfo:
            def __init__(self, deviceIdOrName: str) -> None:
                self.name = deviceIdOrName

        class ImgFrame:
            Type = SimpleNamespace(GRAY8="grey", BGR888i="colour")

            def __init__(self, at: timedelta, shape: tuple[int, ...]) -> None:
                self.at, self.shape = at, shape

            def getTimestamp(self) -> timedelta:
                return self.at

            def getCvFrame(self) -> np.ndarray[Any, Any]:
                return np.zeros(self.shape, np.uint8)

        class MessageQueue:
            def __init__(self, times: Iterator[timedelta], shape: tuple[int, ...]) -> None:
                self.times, self.shape = times, shape

            def get(self, timeout: timedelta) -> ImgFrame | None:
                assert timeout > timedelta()
                at = next(self.times, None)
                return None if at is None else ImgFrame(at, self.shape)

        class Output:
            def __init__(self, socket: str, size: tuple[int, int], type: str, fps: float) -> None:
                self.socket, self.fps = socket, fps
                self.shape = (size[1], size[0]) if type == "grey" else (size[1], size[0], 3)

            def createOutputQueue(self, maxSize: int = 16, blocking: bool = False) -> MessageQueue:
                assert not blocking
                late = 6 if self.socket == "right" else 0
                times = (started + timedelta(seconds=number / self.fps) for number in range(late, frames))
                return MessageQueue(times, self.shape)

        class CameraControl:
            def setManualExposure(self, exposureTimeUs: int, sensitivityIso: int) -> None:
                fake.calls.append((exposureTimeUs, sensitivityIso))

        class Camera:
            def __init__(self) -> None:
                self.initialControl = CameraControl()
                self.socket = ""

            def build(self, boardSocket: str, sensorResolution: Any = None, sensorFps: Any = None) -> Camera:
                self.socket = boardSocket
                return self

            def requestOutput(
                self,
                size: tuple[int, int],
                type: Any = None,
                resizeMode: Any = None,
                fps: float | None = None,
                enableUndistortion: bool | None = None,
                alphaScaling: float | None = None,
            ) -> Output:
                fake.calls.append((self.socket, size, type, fps))
                assert fps is not None
                return Output(self.socket, size, type, fps)

        class Pipeline:
            def __init__(self, defaultDevice: Device) -> None:
                self.device, self.running = defaultDevice, False

            def create(self, arg0: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
                return arg0(*args, **kwargs)

            def start(self) -> None:
                self.running = True

            def stop(self) -> None:
                self.running = False

            def isRunning(self) -> bool:
                return self.running

            def getDefaultDevice(self) -> Device:
                return self.device

        class Clock:
            @staticmethod
            def now() -> timedelta:
                return started

        self.Device, self.DeviceInfo, self.Pipeline, self.ImgFrame, self.Clock = (
            Device,
            DeviceInfo,
            Pipeline,
            ImgFrame,
            Clock,
        )
        self.MessageQueue, self.CameraControl = MessageQueue, CameraControl
        self.Node, self.node = SimpleNamespace(Output=Output), SimpleNamespace(Camera=Camera)
        self.CameraBoardSocket = SimpleNamespace(CAM_B="left", CAM_C="right")


class RealSense(ModuleType):
    """A device with frames at 30 Hz; `calls` is what it was asked for."""

    def __init__(self, *, frames: int = 10**9, fails: str = "", domain: str = "global", empty: int = -1) -> None:
        super().__init__("pyrealsense2")
        fake = self
        self.calls: list[Any] = []
        self.running = False
        self.stream, self.format = SimpleNamespace(infrared="infrared"), SimpleNamespace(y8="y8")
        self.timestamp_domain = SimpleNamespace(hardware_clock="hardware", global_time="global")
        self.option = SimpleNamespace(
            emitter_enabled="emitter_enabled", enable_auto_exposure="auto", exposure="exposure"
        )

        class video_frame:
            def __init__(self, number: int, index: int) -> None:
                self.number, self.index = number, index

            def __bool__(self) -> bool:
                return self.number != empty

            def get_timestamp(self) -> float:
                return 1_700_000_000_000.0 + self.number * 1000 / 30 + self.index / 100

            def get_frame_timestamp_domain(self) -> str:
                return domain

            def get_data(self) -> np.ndarray[Any, Any]:
                return np.full((480, 848), self.index, np.uint8)

        class composite_frame:
            def __init__(self, number: int) -> None:
                self.number = number

            def get_infrared_frame(self, index: int = 0) -> video_frame:
                return video_frame(self.number, index)

        class config:
            def enable_device(self, serial: str) -> None:
                fake.calls.append(serial)

            def enable_stream(
                self, stream_type: str, stream_index: int, width: int, height: int, format: str, framerate: int
            ) -> None:
                assert isinstance(framerate, int)
                fake.calls.append((stream_type, stream_index, width, height, format, framerate))

        class depth_sensor:
            def supports(self, arg0: str) -> bool:
                return True

            def set_option(self, option: str, value: float) -> None:
                fake.calls.append((option, value))

        class device:
            def first_depth_sensor(self) -> depth_sensor:
                return depth_sensor()

        class pipeline_profile:
            def get_device(self) -> device:
                return device()

        class pipeline:
            def __init__(self) -> None:
                self.numbers = iter(range(frames))

            def start(self, config: Any) -> pipeline_profile:
                if fails:
                    raise RuntimeError(fails)
                fake.running = True
                return pipeline_profile()

            def stop(self) -> None:
                assert fake.running, "stop() cannot be called before start()"
                fake.running = False

            def wait_for_frames(self, timeout_ms: int = 5000) -> composite_frame:
                number = next(self.numbers, None)
                if number is None:
                    raise RuntimeError(f"Frame didn't arrive within {timeout_ms}")
                return composite_frame(number)

        self.pipeline, self.config, self.pipeline_profile, self.device = pipeline, config, pipeline_profile, device
        self.depth_sensor, self.composite_frame, self.video_frame = depth_sensor, composite_frame, video_frame


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
