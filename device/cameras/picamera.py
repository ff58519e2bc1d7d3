"""Two Raspberry Pi cameras by picamera2, for example `picamera2:0,1` (a Pi 5 or a Compute Module takes two at once).

Each camera gives two streams of the same moment from its image processor: `main` for the learner and `lores`, whose
first plane is the luma that dedupe wants, for nothing. `main` is asked for as "RGB888", which is B, G, R in memory: the
hardware converts the colours of every frame, so that the processor converts none. Written after picamera2's manual and
source; not yet run on a Pi.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from device.camera import CameraError, CameraMissing, Eye, Shot
from stream.pair import Image

LORES = (320, 180)
"""Width and height of the luma."""


class Picamera2Camera:
    """Two CSI cameras by number, `size` (height, width) at `rate_fps`. Raises CameraError where there are none."""

    def __init__(self, left: str, right: str, *, size: tuple[int, int] = (720, 1280), rate_fps: float = 30.0) -> None:
        self.fps: float | None = rate_fps
        self._eyes: list[Any] = []
        try:
            for number in (left, right):
                self._eyes.append(_start(number, size, rate_fps))
        except CameraError:
            self.close()
            raise

    def __iter__(self) -> Iterator[Shot]:
        """Shots at the pace of the cameras."""
        while True:
            # ask both before waiting for either: the eyes are then at most one frame apart
            jobs = [eye.capture_request(wait=False) for eye in self._eyes]
            requests = [eye.wait(job) for eye, job in zip(self._eyes, jobs, strict=True)]
            try:
                left, right = (_eye(request) for request in requests)
            finally:
                for request in requests:
                    request.release()  # or the camera runs out of buffers
            yield Shot(left, right)

    def close(self) -> None:
        """Stop the cameras and give them back."""
        for eye in self._eyes:
            eye.stop()
            eye.close()
        self._eyes.clear()


def _start(number: str, size: tuple[int, int], rate_fps: float) -> Any:
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
                main={"size": (size[1], size[0]), "format": "RGB888"},
                lores={"size": LORES, "format": "YUV420"},
                controls={"FrameRate": rate_fps},
            )
        )
        eye.start()
    except (RuntimeError, IndexError) as error:
        raise CameraMissing(f"picamera2:{number} does not start: {error}") from error
    return eye


def _eye(request: Any) -> Eye:
    captured_ns = _utc_ns(request.get_metadata()["SensorTimestamp"])
    return Eye(captured_ns, pixels=request.make_array("main"), luma=_luma(request.make_array("lores")))


def _luma(planes: Image) -> Image:
    """The Y plane of YUV420 [h * 3 / 2, stride]: its rows are padded to the stride."""
    return np.ascontiguousarray(planes[: LORES[1], : LORES[0]])


def _utc_ns(boot_ns: int) -> int:
    """Nanoseconds since 1970 of a time since boot."""
    return time.time_ns() - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - boot_ns)
