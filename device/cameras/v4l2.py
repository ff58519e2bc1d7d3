"""Two USB cameras by Video4Linux, for example `v4l2:0,2`.

MJPG is requested from them, and the JPEG that a camera makes itself is forwarded untouched: this costs the rig no time, and there
is no loss from a second compression. USB cameras have no common shutter. Both are grabbed before either is read, which keeps the
skew small, and each eye carries the time at which the driver filled its buffer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from device.camera import DEFAULTS, BadShot, CameraError, CameraMissing, CameraSettings, EyeImage, Shot

MAX_FAILURES = 10
"""Number of failed grabs in a row after which the camera counts as missing; the driver waits some seconds for each."""
_STALE_NS = 10_000_000_000  # a driver's timestamp that is further from now comes from another clock


class V4l2Camera:
    """Two video devices, each given by a number or a path. Size and rate are requested; a device may choose others.

    Raises CameraMissing if one is missing, busy or not a camera.
    """

    def __init__(self, left: str, right: str, settings: CameraSettings = DEFAULTS) -> None:
        self._eyes: list[cv2.VideoCapture] = []
        self._name = f"v4l2:{left},{right}"
        try:
            for device in (left, right):
                self._eyes.append(_open(device, settings))
        except CameraError:
            self.close()
            raise
        self.fps: float | None = self._eyes[0].get(cv2.CAP_PROP_FPS) or None

    def __iter__(self) -> Iterator[Shot | BadShot]:
        """Yield shots at the pace of the cameras; raises CameraMissing when they stop giving images."""
        failures = 0
        while failures < MAX_FAILURES:
            shot = self._shot()
            failures = failures + 1 if isinstance(shot, BadShot) else 0
            yield shot
        raise CameraMissing(f"{self._name}: no image in {MAX_FAILURES} attempts; is a camera unplugged?")

    def close(self) -> None:
        """Release the devices."""
        for eye in self._eyes:
            eye.release()
        self._eyes.clear()

    def _shot(self) -> Shot | BadShot:
        grabbed = [eye.grab() for eye in self._eyes]  # both, one right after the other
        if not all(grabbed):
            return BadShot(f"{self._name}: a camera gave no frame")
        times_ns = [_captured_ns(eye) for eye in self._eyes]
        try:
            left, right = (_retrieve(eye, at_ns) for eye, at_ns in zip(self._eyes, times_ns, strict=True))
        except BadShot as bad:
            return bad
        return Shot(left, right)


def _open(device: str, settings: CameraSettings) -> cv2.VideoCapture:
    path = Path(f"/dev/video{device}" if device.isdigit() else device)
    if not path.exists():
        reason = "there is no such device (plug it in, or see v4l2-ctl --list-devices)"
        raise CameraMissing(f"no camera at {path}: {reason}")
    eye = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
    if not eye.isOpened():
        reason = "it is busy, not a camera, or not readable for this user (group video)"
        raise CameraMissing(f"no camera at {path}: {reason}")
    eye.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    height, width = settings.hardware_size
    eye.set(cv2.CAP_PROP_FRAME_WIDTH, width)
    eye.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
    eye.set(cv2.CAP_PROP_FPS, settings.hardware_fps)
    eye.set(cv2.CAP_PROP_BUFFERSIZE, 2)  # one is filled while the other is read; more would delay the frames
    if int(eye.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG"):
        eye.set(cv2.CAP_PROP_CONVERT_RGB, 0)  # gives the JPEG itself; the driver converts a camera without MJPG to BGR
    return eye


def _captured_ns(eye: cv2.VideoCapture) -> int:
    """Return the time at which the driver filled the buffer, converted from the monotonic clock to nanoseconds since 1970."""
    now_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
    age_ns = monotonic_ns - round(eye.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
    return now_ns - age_ns if 0 <= age_ns < _STALE_NS else now_ns


def _retrieve(eye: cv2.VideoCapture, captured_ns: int) -> EyeImage:
    read, frame = eye.retrieve()
    if not read:
        raise BadShot("a camera gave a frame that cannot be read")
    image = np.asarray(frame, np.uint8)
    if 1 in image.shape[:2]:  # unconverted: one row of bytes
        return EyeImage(captured_ns, jpeg=image.tobytes())
    return EyeImage(captured_ns, pixels=image)
