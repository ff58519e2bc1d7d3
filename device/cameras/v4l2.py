"""USB cameras by Video4Linux: two of them, for example `v4l2:0,2`, or one that shows both eyes, `v4l2-sbs:0` or `v4l2-tb:0`.

MJPG is requested from them. The JPEG that each of two cameras makes itself is forwarded untouched: this costs the rig no time,
and there is no loss from a second compression. USB cameras have no common shutter. Each image carries the time at which the
driver filled its buffer, and images are paired by it.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import cv2
import numpy as np

from device.camera import DEFAULTS, BadShot, CameraMissing, CameraSettings, EyeImage, Layout
from device.cameras.live import STOPPED_S, Frame, PairedCamera, SplitCamera, close_all
from stream.host.printing import is_utf8

MAX_FAILURES = 10
"""Number of failed grabs in a row after which the camera counts as missing, if it has not been STOPPED_S before."""
_STALE_NS = 10_000_000_000  # a driver's timestamp that is further from now comes from another clock


def open_v4l2(left: str, right: str, settings: CameraSettings = DEFAULTS) -> PairedCamera:
    """Open two video devices, each given by a number or a path.

    Size and rate are requested; a device may choose others. Raises CameraMissing if one is missing, busy or not a camera.
    """
    eyes: list[V4l2Eye] = []
    try:
        eyes.extend(V4l2Eye(device, settings) for device in (left, right))
        stamped = [eye.start() for eye in eyes]
    except CameraMissing:
        close_all(eyes)
        raise
    for eye in eyes:  # times of two clocks cannot be compared
        eye.stamped = all(stamped)
    return PairedCamera(f"v4l2:{left},{right}", eyes, fps=max((eye.fps for eye in eyes if eye.fps), default=None))


def open_v4l2_split(layout: Layout, device: str, settings: CameraSettings = DEFAULTS) -> SplitCamera:
    """Open one video device whose images hold both eyes; `settings.size` is the size of both together. Raises CameraMissing."""
    eye = V4l2Eye(device, settings)
    try:
        eye.stamped = eye.start()
    except CameraMissing:
        eye.close()
        raise
    return SplitCamera(eye, layout, fps=eye.fps)


class V4l2Eye:
    """A video device. Raises CameraMissing if it is missing, busy or not a camera.

    fps: the rate in Hz that the driver states, None if it states none. stamped: whether the driver's times are used.
    """

    def __init__(self, device: str, settings: CameraSettings) -> None:
        self.path = Path(f"/dev/video{device}" if device.isdigit() else device)
        self.stamped = True
        self._failures = 0
        self._eye = _open(self.path, settings)
        self._last_s = time.monotonic()
        self.fps = self._eye.get(cv2.CAP_PROP_FPS) or None

    def start(self) -> bool:
        """Take the first image, and return whether the driver stamps it by the monotonic clock. Raises CameraMissing."""
        if not self._eye.grab():
            raise CameraMissing(
                f"{self.path} opens but gives no image: another program streams from it (fuser -v {self.path}), or the USB "
                "bus has no room for it: try a smaller --size or --fps, or another port"
            )
        return 0 <= time.monotonic_ns() - self._stamp_ns() < _STALE_NS

    def take(self) -> Frame:
        """Wait for the next image. Raises BadShot if there is none, and CameraMissing if the camera has stopped."""
        if not self._eye.grab():
            self._failures += 1
            silent_s = time.monotonic() - self._last_s
            if silent_s >= STOPPED_S or self._failures >= MAX_FAILURES:
                raise CameraMissing(f"{self.path} gave no image for {silent_s:.0f} s: is the camera unplugged?")
            raise BadShot(f"{self.path} gave no image")
        self._failures, self._last_s = 0, time.monotonic()
        captured_ns = self._stamp_ns() if self.stamped else time.monotonic_ns()
        read, frame = self._eye.retrieve()
        if not read:
            raise BadShot(f"{self.path} gave an image that cannot be read")
        image = np.asarray(frame, np.uint8)
        if 1 in image.shape[:2]:  # unconverted: one row of bytes
            jpeg = image.tobytes()
            return Frame(captured_ns, lambda at_ns: EyeImage(at_ns, jpeg=jpeg), size=len(jpeg))
        return Frame(captured_ns, lambda at_ns: EyeImage(at_ns, pixels=image), size=image.nbytes)

    def close(self) -> None:
        """Release the device."""
        self._eye.release()

    def _stamp_ns(self) -> int:
        """Return the time at which the driver filled the buffer, in nanoseconds of its clock."""
        return round(self._eye.get(cv2.CAP_PROP_POS_MSEC) * 1e6)


def _open(path: Path, settings: CameraSettings) -> cv2.VideoCapture:
    if not path.exists() or not is_utf8(str(path)):
        reason = "there is no such device (plug it in, or see v4l2-ctl --list-devices)"
        raise CameraMissing(f"no camera at {path}: {reason}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise CameraMissing(
            f"{path} may not be opened by this user: sudo usermod -aG video USER, then log in again (a service: Group=video)"
        )
    eye = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
    if not eye.isOpened():
        reason = f"another program may have it (fuser -v {path} names it), or it is the second device of a camera"
        if not stat.S_ISCHR(path.stat().st_mode):
            reason = "it is not a camera but a file: a film is opened with video:, sbs: or tb:"
        raise CameraMissing(f"no camera at {path}: {reason}")
    eye.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    height, width = settings.hardware_size
    eye.set(cv2.CAP_PROP_FRAME_WIDTH, width)
    eye.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
    eye.set(cv2.CAP_PROP_FPS, settings.hardware_fps)
    eye.set(cv2.CAP_PROP_BUFFERSIZE, 2)  # one is filled while the other is read; more would delay the frames
    if settings.exposure_us is not None:
        eye.set(cv2.CAP_PROP_AUTO_EXPOSURE, 1)  # V4L2_EXPOSURE_MANUAL
        eye.set(cv2.CAP_PROP_EXPOSURE, settings.exposure_us / 100)  # V4L2 counts in 100 us
    if int(eye.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG"):
        eye.set(cv2.CAP_PROP_CONVERT_RGB, 0)  # gives the JPEG itself; the driver converts a camera without MJPG to BGR
    return eye
