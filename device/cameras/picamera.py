"""Two Raspberry Pi cameras by picamera2, for example `picamera2:0,1` (a Pi 5 or a Compute Module can have two).

The image processor of each camera gives two streams of the same moment: `main` for the learner, and `lores`, whose first plane is
the luma that dedupe needs, at no cost. `main` is requested as "RGB888", which is B, G, R in memory: the hardware converts the
colours, so the processor does not have to. This is written after picamera2's manual and source, and has not run on a Pi yet.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from device.camera import DEFAULTS, CameraError, CameraMissing, CameraSettings, EyeImage, Shot

LORES = (320, 180)
"""Width and height of the luma."""


class Picamera2Camera:
    """Two CSI cameras, given by their numbers.

    Raises CameraError if picamera2 is not installed, CameraMissing without a camera.
    """

    def __init__(self, left: str, right: str, settings: CameraSettings = DEFAULTS) -> None:
        self.fps: float | None = settings.hardware_fps
        self._eyes: list[Any] = []
        try:
            for number in (left, right):
                self._eyes.append(_start(number, settings))
        except CameraError:
            self.close()
            raise

    def __iter__(self) -> Iterator[Shot]:
        """Yield shots at the pace of the cameras."""
        while True:
            # both are asked before either is awaited, so that the eyes are at most one frame apart
            jobs = [eye.capture_request(wait=False) for eye in self._eyes]
            requests = [eye.wait(job) for eye, job in zip(self._eyes, jobs, strict=True)]
            try:
                left, right = (_image(request) for request in requests)
            finally:
                for request in requests:
                    request.release()  # otherwise the camera runs out of buffers
            yield Shot(left, right)

    def close(self) -> None:
        """Stop the cameras and release them."""
        for eye in self._eyes:
            eye.stop()
            eye.close()
        self._eyes.clear()


def _start(number: str, settings: CameraSettings) -> Any:
    try:
        from picamera2 import Picamera2
    except ImportError as error:
        raise CameraError(
            f"picamera2:{number}: picamera2 is not installed: sudo apt install python3-picamera2, and make the "
            "virtual environment with --system-site-packages"
        ) from error
    known = len(Picamera2.global_camera_info())
    if not number.isdigit() or int(number) >= known:
        raise CameraMissing(f"no camera at picamera2:{number}: {known} are connected, counted from 0")
    try:
        eye = Picamera2(int(number))
        eye.configure(
            eye.create_video_configuration(
                main={"size": settings.hardware_size[::-1], "format": "RGB888"},
                lores={"size": LORES, "format": "YUV420"},
                controls={"FrameRate": settings.hardware_fps},
            )
        )
        eye.start()
    except (RuntimeError, IndexError) as error:
        raise CameraMissing(f"picamera2:{number} does not start: {error}") from error
    return eye


def _image(request: Any) -> EyeImage:
    """Return the image of one eye, with its time converted from nanoseconds since boot to nanoseconds since 1970."""
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - request.get_metadata()["SensorTimestamp"]
    captured_ns = time.time_ns() - age_ns
    planes = request.make_array("lores")  # YUV420 [h * 3 / 2, stride]: Y comes first, its rows are padded to the stride
    luma = np.ascontiguousarray(planes[: LORES[1], : LORES[0]])
    return EyeImage(captured_ns, pixels=request.make_array("main"), luma=luma)
