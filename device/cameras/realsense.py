"""A RealSense D400 by pyrealsense2, for example `realsense`, or `realsense:SERIAL`.

Its left and right infrared cameras give grey images of one moment, because they have a common shutter. The pattern of dots that
helps it to measure depth is switched off. Written after pyrealsense2 2.59; it has not met hardware yet.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from device.camera import DEFAULTS, BadShot, CameraError, CameraMissing, CameraSettings, EyeImage, Shot
from device.cameras.live import STOPPED_S


class RealSenseCamera:
    """A RealSense device; an empty `serial` means the first one.

    Raises CameraError without pyrealsense2 or for a size and rate that it does not have, CameraMissing without a device.
    """

    def __init__(self, serial: str, settings: CameraSettings = DEFAULTS) -> None:
        self.fps: float | None = settings.hardware_fps
        self._name = f"realsense:{serial}" if serial else "realsense"
        self._library = _library(self._name)
        self._pipeline: Any = self._library.pipeline()
        self._running = False
        height, width = settings.hardware_size
        config = self._library.config()
        if serial:
            config.enable_device(serial)
        streams, formats = self._library.stream, self._library.format
        for index in (1, 2):  # left, right
            config.enable_stream(streams.infrared, index, width, height, formats.y8, round(settings.hardware_fps))
        try:
            profile = self._pipeline.start(config)
            self._running = True
            self._set_up(profile.get_device().first_depth_sensor(), settings)
        except RuntimeError as error:  # every error of pyrealsense2 is one
            self.close()
            if "resolve requests" in str(error):
                text = (
                    f"it has no grey stereo images of {width}x{height} at {settings.hardware_fps:g} Hz, or is on USB 2"
                )
                raise CameraError(f"{self._name}: {text}: choose --size and --fps, such as 848x480 and 30") from error
            reason = f"{error}: look at its cable and port, and at programs that use it"
            raise CameraMissing(f"{self._name} does not open: {reason}") from error

    def __iter__(self) -> Iterator[Shot | BadShot]:
        """Yield shots at the pace of the camera; raises CameraMissing when it stops."""
        while True:
            try:
                frames = self._pipeline.wait_for_frames(round(STOPPED_S * 1e3))
            except RuntimeError as error:
                raise CameraMissing(f"{self._name} gave no image for {STOPPED_S:.0f} s: is it unplugged?") from error
            left, right = frames.get_infrared_frame(1), frames.get_infrared_frame(2)
            yield self._shot(left, right) if left and right else BadShot(f"{self._name} gave the image of one eye only")

    def close(self) -> None:
        """Stop the camera; idempotent."""
        if self._running:
            self._running = False
            self._pipeline.stop()

    def _set_up(self, sensor: Any, settings: CameraSettings) -> None:
        option = self._library.option
        wanted = [(option.emitter_enabled, 0.0)]
        if settings.exposure_us is not None:
            wanted += [(option.enable_auto_exposure, 0.0), (option.exposure, settings.exposure_us)]
        for name, value in wanted:
            if sensor.supports(name):
                sensor.set_option(name, value)

    def _shot(self, left: Any, right: Any) -> Shot:
        """Return a shot; times of the device's own clock are moved so that the left image is of now."""
        times_ms = [frame.get_timestamp() for frame in (left, right)]
        own = left.get_frame_timestamp_domain() == self._library.timestamp_domain.hardware_clock
        offset_ns = time.time_ns() - round(times_ms[0] * 1e6) if own else 0

        def eye(frame: Any, at_ms: float) -> EyeImage:
            return EyeImage(offset_ns + round(at_ms * 1e6), pixels=np.array(frame.get_data(), np.uint8))

        return Shot(eye(left, times_ms[0]), eye(right, times_ms[1]))


def _library(name: str) -> Any:
    try:
        import pyrealsense2
    except ImportError as error:
        if "libusb" in str(error):
            raise CameraError(f"{name}: pyrealsense2 needs a library: sudo apt install libusb-1.0-0") from error
        hint = "pip install -e '.[realsense]' in the checkout"
        raise CameraError(f"{name}: pyrealsense2 is not installed: {hint}") from error
    return pyrealsense2
