"""CSI cameras over a fake of picamera2: pairs, cameras that stop, sensor modes, and what is said if one does not start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count, islice
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from device.camera import CameraError, CameraMissing, CameraSettings, Shot
from device.cameras.open import open_camera

MS = 1_000_000


def times_ms(start_ms: float) -> Iterator[float]:
    """The times of a camera of 30 Hz that starts at `start_ms`."""
    return (at_ms for number in count() if (at_ms := number * 1000 / 30) >= start_ms)


class FakeRequest:
    def __init__(self, eye: FakePicamera2, at_ms: float) -> None:
        self.eye = eye
        self.at_ms = at_ms
        eye.held += 1

    def get_metadata(self) -> dict[str, int]:
        return {"SensorTimestamp": round(self.at_ms * MS)}

    def make_array(self, name: str) -> np.ndarray[Any, Any]:
        width, height = self.eye.configuration["main"]["size"]
        return np.zeros((270, 384), np.uint8) if name == "lores" else np.zeros((height, width, 3), np.uint8)

    def release(self) -> None:
        self.eye.held -= 1


class FakePicamera2:
    """picamera2 0.3.38 as far as it is used; the right camera starts later, and may stop."""

    opened: list[FakePicamera2]
    stops_after = 10**9
    fails_with: Exception | None = None

    def __init__(self, camera_num: int = 0) -> None:
        self.times = islice(times_ms(300 * camera_num), self.stops_after)
        self.held = 0
        self.state = "opened"
        self.configuration: dict[str, Any] = {}
        type(self).opened.append(self)

    @staticmethod
    def global_camera_info() -> list[dict[str, Any]]:
        return [{}, {}]

    sensor_modes = [  # noqa: RUF012
        {"size": (1536, 864), "bit_depth": 10, "fps": 120.13, "crop_limits": (768, 432, 3072, 1728)},
        {"size": (2304, 1296), "bit_depth": 10, "fps": 56.03, "crop_limits": (0, 0, 4608, 2592)},
        {"size": (4608, 2592), "bit_depth": 10, "fps": 14.35, "crop_limits": (0, 0, 4608, 2592)},
    ]

    def create_video_configuration(
        self, main: Any = None, lores: Any = None, controls: Any = None, sensor: Any = None
    ) -> dict[str, Any]:
        return {"main": main, "lores": lores, "controls": controls, "sensor": sensor}

    def configure(self, configuration: dict[str, Any]) -> None:
        self.configuration = configuration

    def start(self) -> None:
        if self.fails_with is not None:
            raise self.fails_with
        self.state = "started"

    def capture_request(self, wait: bool) -> float | None:
        assert wait is False
        return next(self.times, None)

    def wait(self, job: float | None, timeout: float) -> FakeRequest:
        if job is None:
            raise TimeoutError
        assert timeout > 0
        return FakeRequest(self, job)

    def stop(self) -> None:
        self.state = "stopped"

    def close(self) -> None:
        self.state = "closed"


@pytest.fixture
def picamera2(monkeypatch: pytest.MonkeyPatch) -> type[FakePicamera2]:
    class Fake(FakePicamera2):
        opened: list[FakePicamera2] = []  # noqa: RUF012

    module = ModuleType("picamera2")
    module.Picamera2 = Fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picamera2", module)
    return Fake


def test_two_csi_cameras_in_phase_are_paired_from_the_first_shot_on(picamera2: type[FakePicamera2]) -> None:
    camera = open_camera("picamera2:0,1", CameraSettings(exposure_us=8000))
    shots = list(islice(camera, 45))
    assert {shot.right.captured_ns - shot.left.captured_ns for shot in shots if isinstance(shot, Shot)} == {0}
    assert isinstance(shots[0], Shot)
    assert (shots[0].left.shape(), pixels(shots[0].left.luma).shape) == ((720, 1280, 3), (180, 320))
    assert picamera2.opened[0].configuration["controls"] == {
        "FrameRate": 30.0,
        "AeEnable": False,
        "ExposureTime": 8000,
    }
    assert picamera2.opened[0].configuration["sensor"] is None
    camera.close()
    assert [eye.state for eye in picamera2.opened] == ["closed", "closed"]


def pixels(image: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    assert image is not None
    return image


def test_a_csi_camera_that_stops_ends_the_rig_and_gives_its_buffers_back(picamera2: type[FakePicamera2]) -> None:
    picamera2.stops_after = 12
    with pytest.raises(CameraMissing, match="picamera2:0 gave no image for 5 s"):
        list(open_camera("picamera2:0,1"))
    assert [eye.held for eye in picamera2.opened] == [0, 0]


@pytest.mark.parametrize(
    ("wanted", "size"),
    [
        (CameraSettings(whole_field=True), (2304, 1296)),
        (CameraSettings(whole_field=True, fps=10), (2304, 1296)),
        (CameraSettings(whole_field=True, fps=10, size=(2592, 4608)), (4608, 2592)),
        (CameraSettings(whole_field=True, fps=120), (2304, 1296)),
    ],
)
def test_the_whole_field_is_shown_by_the_smallest_sensor_mode_that_suffices(
    picamera2: type[FakePicamera2], wanted: CameraSettings, size: tuple[int, int]
) -> None:
    open_camera("picamera2:0,1", wanted).close()
    assert picamera2.opened[1].configuration["sensor"] == {"output_size": size, "bit_depth": 10}


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (OSError(12, "Cannot allocate memory"), "no memory left for its buffers: choose a smaller --size"),
        (PermissionError(13, "denied", "/dev/dma_heap/linux,cma"), r"/dev/dma_heap/linux,cma: sudo usermod -aG video"),
        (
            caused(
                RuntimeError("Camera __init__ sequence did not complete."),
                RuntimeError("Failed to acquire camera: Device or resource busy"),
            ),
            "another program uses it",
        ),
        (RuntimeError("something\nelse"), "something else"),
    ],
)
def test_a_csi_camera_that_does_not_start_says_why_and_is_closed(
    picamera2: type[FakePicamera2], failure: Exception, text: str
) -> None:
    picamera2.fails_with = failure
    with pytest.raises(CameraMissing, match=text) as refusal:
        open_camera("picamera2:0,1")
    assert refusal.value.exit_code == 1
    assert "\n" not in str(refusal.value)
    assert [eye.state for eye in picamera2.opened] == ["closed"]


def test_a_size_below_the_luma_is_a_wrong_setting(picamera2: type[FakePicamera2]) -> None:
    with pytest.raises(CameraError, match="at least 320x180, got 300x200") as refusal:
        open_camera("picamera2:0,1", CameraSettings(size=(200, 300)))
    assert refusal.value.exit_code == 2


def test_a_simplejpeg_for_another_numpy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise ValueError("numpy.dtype size changed, may indicate binary incompatibility")

    monkeypatch.setitem(sys.modules, "picamera2", Broken("picamera2"))
    with pytest.raises(CameraError, match=r"pip install -e '.\[pi\]'") as refusal:
        open_camera("picamera2:0,1")
    assert refusal.value.exit_code == 2
