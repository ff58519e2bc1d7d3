"""Fakes of the packages depthai and pyrealsense2: what our cameras use of them, with the signatures of the real ones.

The classes of a package reach their package as `fake`: `bound` makes them again for each fake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

STARTED = timedelta(seconds=100)
"""When the first frame of the fake OAK is taken, by its clock."""
Pixels = np.ndarray[Any, Any]


class Part:
    fake: Any


def bound(fake: ModuleType, kind: type[Part]) -> type[Part]:
    return type(kind.__name__, (kind,), {"fake": fake})


class Device(Part):
    def __init__(self, deviceInfo: Any = None) -> None:
        if self.fake.fails:
            raise RuntimeError(self.fake.fails)
        self.fake.calls.append(deviceInfo and deviceInfo.name)

    def close(self) -> None:
        self.fake.closed += 1


class DeviceInfo:
    def __init__(self, deviceIdOrName: str) -> None:
        self.name = deviceIdOrName


class ImgFrame:
    Type = SimpleNamespace(GRAY8="grey", BGR888i="colour")

    def __init__(self, at: timedelta, shape: tuple[int, ...]) -> None:
        self.at, self.shape = at, shape

    def getTimestamp(self) -> timedelta:
        return self.at

    def getCvFrame(self) -> Pixels:
        return np.zeros(self.shape, np.uint8)


class MessageQueue:
    def __init__(self, times: Iterator[timedelta], shape: tuple[int, ...]) -> None:
        self.times, self.shape = times, shape

    def get(self, timeout: timedelta) -> ImgFrame | None:
        assert timeout > timedelta()
        at = next(self.times, None)
        return None if at is None else ImgFrame(at, self.shape)


class Output:
    def __init__(self, socket: str, size: tuple[int, int], type: str, fps: float, frames: int) -> None:
        self.socket, self.fps, self.frames = socket, fps, frames
        self.shape = (size[1], size[0]) if type == "grey" else (size[1], size[0], 3)

    def createOutputQueue(self, maxSize: int = 16, blocking: bool = False) -> MessageQueue:
        assert not blocking
        late = 6 if self.socket == "right" else 0
        times = (STARTED + timedelta(seconds=number / self.fps) for number in range(late, self.frames))
        return MessageQueue(times, self.shape)


class CameraControl(Part):
    def setManualExposure(self, exposureTimeUs: int, sensitivityIso: int) -> None:
        self.fake.calls.append((exposureTimeUs, sensitivityIso))


class Camera(Part):
    def __init__(self) -> None:
        self.initialControl = self.fake.CameraControl()
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
        self.fake.calls.append((self.socket, size, type, fps))
        assert fps is not None
        return Output(self.socket, size, type, fps, self.fake.frames)


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
        return STARTED


class Depthai(ModuleType):
    """A device whose frames come at 30 Hz of its clock, the right ones from 200 ms on; `calls` is what it was asked for."""

    DeviceInfo, Pipeline, ImgFrame, Clock, MessageQueue = DeviceInfo, Pipeline, ImgFrame, Clock, MessageQueue
    Node = SimpleNamespace(Output=Output)
    CameraBoardSocket = SimpleNamespace(CAM_B="left", CAM_C="right")

    def __init__(self, *, frames: int = 10**9, fails: str = "") -> None:
        super().__init__("depthai")
        self.calls: list[Any] = []
        self.closed = 0
        self.frames, self.fails = frames, fails
        self.Device, self.CameraControl = bound(self, Device), bound(self, CameraControl)
        self.node = SimpleNamespace(Camera=bound(self, Camera))


class video_frame(Part):
    def __init__(self, number: int, index: int) -> None:
        self.number, self.index = number, index

    def __bool__(self) -> bool:
        return bool(self.number != self.fake.empty)

    def get_timestamp(self) -> float:
        return 1_700_000_000_000.0 + self.number * 1000 / 30 + self.index / 100

    def get_frame_timestamp_domain(self) -> str:
        return str(self.fake.domain)

    def get_data(self) -> Pixels:
        return np.full((480, 848), self.index, np.uint8)


class composite_frame(Part):
    def __init__(self, number: int) -> None:
        self.number = number

    def get_infrared_frame(self, index: int = 0) -> Any:
        return self.fake.video_frame(self.number, index)


class config(Part):
    def enable_device(self, serial: str) -> None:
        self.fake.calls.append(serial)

    def enable_stream(
        self, stream_type: str, stream_index: int, width: int, height: int, format: str, framerate: int
    ) -> None:
        assert isinstance(framerate, int)
        self.fake.calls.append((stream_type, stream_index, width, height, format, framerate))


class depth_sensor(Part):
    def supports(self, arg0: str) -> bool:
        return True

    def set_option(self, option: str, value: float) -> None:
        self.fake.calls.append((option, value))


class device(Part):
    def first_depth_sensor(self) -> Any:
        return self.fake.depth_sensor()


class pipeline_profile(Part):
    def get_device(self) -> Any:
        return self.fake.device()


class pipeline(Part):
    def __init__(self) -> None:
        self.numbers = iter(range(self.fake.frames))

    def start(self, config: Any) -> Any:
        if self.fake.fails:
            raise RuntimeError(self.fake.fails)
        self.fake.running = True
        return self.fake.pipeline_profile()

    def stop(self) -> None:
        assert self.fake.running, "stop() cannot be called before start()"
        self.fake.running = False

    def wait_for_frames(self, timeout_ms: int = 5000) -> Any:
        number = next(self.numbers, None)
        if number is None:
            raise RuntimeError(f"Frame didn't arrive within {timeout_ms}")
        return self.fake.composite_frame(number)


class RealSense(ModuleType):
    """A device with frames at 30 Hz; `calls` is what it was asked for."""

    stream, format = SimpleNamespace(infrared="infrared"), SimpleNamespace(y8="y8")
    timestamp_domain = SimpleNamespace(hardware_clock="hardware", global_time="global")
    option = SimpleNamespace(emitter_enabled="emitter_enabled", enable_auto_exposure="auto", exposure="exposure")

    def __init__(self, *, frames: int = 10**9, fails: str = "", domain: str = "global", empty: int = -1) -> None:
        super().__init__("pyrealsense2")
        self.calls: list[Any] = []
        self.running = False
        self.frames, self.fails, self.domain, self.empty = frames, fails, domain, empty
        for kind in (pipeline, config, pipeline_profile, device, depth_sensor, composite_frame, video_frame):
            setattr(self, kind.__name__, bound(self, kind))
