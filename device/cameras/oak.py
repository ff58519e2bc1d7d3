"""An OAK-D of Luxonis by depthai 3, for example `oak`, or `oak:DEVICE` with the device's id, name or address.

Its left and right cameras give grey images, or colour ones with `oak:?colour=1` where the sensors have colours. Both are stamped
by the device's clock, which depthai keeps in step with the host's monotonic clock. Written after depthai 3.12; it has not met
hardware yet.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np

from device.camera import DEFAULTS, CameraError, CameraMissing, CameraSettings, EyeImage
from device.cameras.live import STOPPED_S, Frame, PairedCamera

ISO = 400
"""Sensitivity beside a fixed exposure time; depthai sets both or neither."""
MAX_QUEUE = 4


def open_oak(device: str, settings: CameraSettings = DEFAULTS, *, colour: str = "0") -> PairedCamera:
    """Open an OAK-D; an empty `device` means the first one, colour "1" colour images.

    Raises CameraError without depthai, CameraMissing without a device.
    """
    name = f"oak:{device}" if device else "oak"
    try:
        import depthai
    except ImportError as error:
        raise CameraError(f"{name}: depthai is not installed: pip install -e '.[oak]' in the checkout") from error
    if colour not in ("0", "1"):
        raise CameraError(f"{name}: colour is 0 or 1, got {colour!r}")
    found = None
    try:
        found = depthai.Device(depthai.DeviceInfo(device)) if device else depthai.Device()
        pipeline = depthai.Pipeline(found)
        kind = depthai.ImgFrame.Type.BGR888i if colour == "1" else depthai.ImgFrame.Type.GRAY8
        sockets = (depthai.CameraBoardSocket.CAM_B, depthai.CameraBoardSocket.CAM_C)  # left, right
        queues = [_queue(depthai, pipeline, socket, kind, settings) for socket in sockets]
        pipeline.start()
    except RuntimeError as error:  # every error of depthai is one
        if found is not None:
            found.close()
        reason = " ".join(str(error).split()) or "it does not start"
        raise CameraMissing(
            f"{name} does not open: {reason}: look at its cable and power, at programs that use it, and at depthai's udev rule"
        ) from error
    eyes = [_OakEye(f"{name} {side}", queue, pipeline) for side, queue in zip(("left", "right"), queues, strict=True)]
    return PairedCamera(name, eyes, fps=settings.hardware_fps, now_ns=partial(_ns, depthai.Clock.now))


class _OakEye:
    """One of the two cameras. All eyes share a pipeline, which the first one to be closed stops."""

    def __init__(self, name: str, queue: Any, pipeline: Any) -> None:
        self._name = name
        self._queue = queue
        self._pipeline = pipeline

    def take(self) -> Frame:
        """Wait for the next image. Raises CameraMissing if the device has stopped."""
        try:
            frame = self._queue.get(timedelta(seconds=STOPPED_S))
        except RuntimeError as error:  # the queue of a device that is gone is closed
            raise CameraMissing(f"{self._name} has stopped: {error}") from error
        if frame is None:
            raise CameraMissing(f"{self._name} gave no image for {STOPPED_S:.0f} s: is it unplugged?")
        image = np.asarray(frame.getCvFrame(), np.uint8)  # a copy
        return Frame(_ns(frame.getTimestamp), lambda at_ns: EyeImage(at_ns, pixels=image), size=image.nbytes)

    def close(self) -> None:
        """Stop the pipeline and free the device; idempotent."""
        if self._pipeline.isRunning():
            self._pipeline.stop()
        self._pipeline.getDefaultDevice().close()


def _queue(depthai: Any, pipeline: Any, socket: Any, kind: Any, settings: CameraSettings) -> Any:
    camera = pipeline.create(depthai.node.Camera).build(socket)
    if settings.exposure_us is not None:
        camera.initialControl.setManualExposure(round(settings.exposure_us), ISO)
    size = settings.hardware_size[::-1]
    output = camera.requestOutput(size, type=kind, fps=settings.hardware_fps)
    return output.createOutputQueue(maxSize=MAX_QUEUE, blocking=False)


def _ns(read: Callable[[], timedelta]) -> int:
    """Return in nanoseconds what `read` returns, exactly."""
    return read() // timedelta(microseconds=1) * 1000
