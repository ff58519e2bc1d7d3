"""Two Raspberry Pi cameras by picamera2, for example `picamera2:0,1` (a Pi 5 or a Compute Module can have two).

The image processor of each camera gives two streams of the same moment: `main` for the learner, and `lores`, whose first plane is
the luma that dedupe needs, at no cost. `main` is requested as "RGB888", which is B, G, R in memory: the hardware converts the
colours, so the processor does not have to. This is written after picamera2's manual and source, and has not run on a Pi yet.
"""

from __future__ import annotations

import errno
import time
from functools import partial
from typing import Any

import numpy as np

from device.camera import DEFAULTS, CameraError, CameraMissing, CameraSettings, EyeImage
from device.cameras.live import STOPPED_S, Frame, PairedCamera, close_all

LORES = (320, 180)
"""Width and height of the luma."""
_INSTALL = "on Raspberry Pi OS: sudo apt install python3-picamera2, and make the virtual environment with --system-site-packages"
_SIMPLEJPEG = "picamera2's simplejpeg was built for another NumPy: pip install -e '.[pi]' in the checkout"
_MEMORY = (
    "there is no memory left for its buffers: choose a smaller --size, or more memory for cameras (cma= in "
    "/boot/firmware/config.txt)"
)


def open_picamera2(left: str, right: str, settings: CameraSettings = DEFAULTS) -> PairedCamera:
    """Open two CSI cameras, given by their numbers.

    Raises CameraError if picamera2 is not installed or the size is too small, CameraMissing without a camera.
    """
    eyes: list[Picamera2Eye] = []
    try:
        eyes.extend(Picamera2Eye(number, settings) for number in (left, right))
    except CameraError:
        close_all(eyes)
        raise
    return PairedCamera(f"picamera2:{left},{right}", eyes, fps=max(eye.fps for eye in eyes), now_ns=_now_ns)


class Picamera2Eye:
    """A CSI camera, given by its number. fps: the rate in Hz."""

    def __init__(self, number: str, settings: CameraSettings) -> None:
        self.name = f"picamera2:{number}"
        self.fps = settings.hardware_fps
        library = _library(self.name)
        known = len(library.global_camera_info())
        if not number.isdigit() or int(number) >= known:
            raise CameraMissing(f"no camera at {self.name}: {known} are connected, counted from 0")
        height, width = settings.hardware_size
        if width < LORES[0] or height < LORES[1]:
            raise CameraError(f"{self.name}: --size must be at least {LORES[0]}x{LORES[1]}, got {width}x{height}")
        try:
            self._eye = library(int(number))
        except (RuntimeError, IndexError, OSError) as error:
            raise CameraMissing(f"{self.name} does not open: {_reason(error)}") from error
        try:
            self._start(settings)
        except (RuntimeError, IndexError, OSError) as error:
            self.close()
            raise CameraMissing(f"{self.name} does not start: {_reason(error)}") from error

    def take(self) -> Frame:
        """Wait for the next image. Raises CameraMissing if the camera has stopped."""
        try:
            request = self._eye.wait(self._eye.capture_request(wait=False), timeout=STOPPED_S)
        except TimeoutError as error:
            raise CameraMissing(
                f"{self.name} gave no image for {STOPPED_S:.0f} s: is its cable loose? (dmesg, and rpicam-hello -t 0)"
            ) from error
        captured_ns = request.get_metadata()["SensorTimestamp"]
        return Frame(captured_ns, partial(_image, request), request.release)

    def close(self) -> None:
        """Stop the camera and release it."""
        try:
            self._eye.stop()
        finally:
            self._eye.close()

    def _start(self, settings: CameraSettings) -> None:
        controls: dict[str, Any] = {"FrameRate": self.fps}
        if settings.exposure_us is not None:
            controls |= {"AeEnable": False, "ExposureTime": round(settings.exposure_us)}
        whole = (
            _whole_field(self._eye.sensor_modes, self.fps, settings.hardware_size[1]) if settings.whole_field else {}
        )
        self._eye.configure(
            self._eye.create_video_configuration(
                main={"size": settings.hardware_size[::-1], "format": "RGB888"},
                lores={"size": LORES, "format": "YUV420"},
                controls=controls,
                **whole,
            )
        )
        self._eye.start()


def _library(name: str) -> Any:
    """Import picamera2. Raises CameraError if it is not installed, or does not fit the other packages."""
    try:
        from picamera2 import Picamera2
    except ImportError as error:
        raise CameraError(f"{name}: picamera2 is not installed: {_INSTALL}") from error
    except ValueError as error:  # "numpy.dtype size changed"
        raise CameraError(f"{name}: {_SIMPLEJPEG}") from error
    return Picamera2


def _reason(error: Exception) -> str:
    """Say in one sentence why a camera does not start, and what helps."""
    if isinstance(error, PermissionError):
        return f"this user may not open {error.filename or '/dev/dma_heap'}: sudo usermod -aG video USER, then log in again"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return _MEMORY
    causes = f"{error} {error.__cause__ or error.__context__ or ''}".strip()
    if "busy" in causes.lower():
        return "another program uses it: stop that one first (a running rig: sudo systemctl stop babyagent-device)"
    if "cannot allocate memory" in causes.lower():
        return _MEMORY
    return " ".join(causes.split())


def _whole_field(modes: list[dict[str, Any]], fps: float, width: int) -> dict[str, Any]:
    """Return what selects the sensor mode with the largest field of view; of several, the smallest that suffices."""

    def field_px(mode: dict[str, Any]) -> int:
        return int(mode["crop_limits"][2] * mode["crop_limits"][3])

    widest = [mode for mode in modes if field_px(mode) == max(map(field_px, modes))]
    chosen = min(widest, key=lambda mode: (mode["fps"] < fps, mode["size"][0] < width, mode["size"][0]))
    return {"sensor": {"output_size": chosen["size"], "bit_depth": chosen["bit_depth"]}}


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _image(request: Any, captured_ns: int) -> EyeImage:
    planes = request.make_array("lores")  # YUV420 [h * 3 / 2, stride]: Y comes first, its rows are padded to the stride
    luma = np.ascontiguousarray(planes[: LORES[1], : LORES[0]])
    return EyeImage(captured_ns, pixels=request.make_array("main"), luma=luma)
