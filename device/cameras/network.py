"""Network cameras: two addresses, or one that shows both eyes, for example `rtsp-sbs://host/stream`.

OpenCV's FFmpeg reads them. A thread for each camera takes every image when it arrives, and that is its time. Networks delay
images by different amounts, so eyes of one rig should have the same kind of link. The JPEG of an MJPEG stream is forwarded
untouched. A stream that ends is opened again, after longer and longer pauses.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import cv2
import numpy as np

from device.camera import DEFAULTS, BadShot, CameraMissing, CameraSettings, EyeImage, Layout
from device.cameras.live import LOG_INTERVAL_S, STOPPED_S, Frame, PairedCamera, SplitCamera, close_all
from device.cameras.spec import redacted
from stream.failures import Failures
from stream.host.printing import is_utf8

TIMEOUT_S = 5.0
"""How long FFmpeg waits for an answer, and for the next image."""
MAX_QUEUE = 4
"""Images of one eye that wait to be taken; the oldest is dropped beyond."""
PAUSE_S = (1.0, 30.0)
"""The first and the longest pause before a stream is opened again."""
MAX_FPS = 240.0
"""A stated rate beyond is the unit of the stream's times, not a rate."""
log = logging.getLogger(__name__)


def open_network(left: str, right: str, settings: CameraSettings = DEFAULTS) -> PairedCamera:
    """Open two network cameras by their addresses. Raises CameraMissing if one does not answer."""
    eyes: list[NetworkEye] = []
    try:
        eyes.extend(NetworkEye(address) for address in (left, right))
        for eye in eyes:
            eye.wait_until_open()
    except CameraMissing:
        close_all(eyes)
        raise
    fps = settings.fps or max((eye.fps for eye in eyes if eye.fps), default=None)
    return PairedCamera(redacted(f"{left},{right}"), eyes, fps=fps)


def open_network_split(layout: Layout, address: str, settings: CameraSettings = DEFAULTS) -> SplitCamera:
    """Open one network camera whose images hold both eyes. Raises CameraMissing if it does not answer."""
    eye = NetworkEye(address)
    try:
        eye.wait_until_open()
    except CameraMissing:
        eye.close()
        raise
    return SplitCamera(eye, layout, fps=settings.fps or eye.fps)


class NetworkEye:
    """A network camera by its address; a thread reads it until it is closed.

    fps: the rate in Hz that the stream states, None if it states none.
    open_it: opens an address, and returns None if it does not answer. pauses_s: the first and the longest pause between attempts.
    wait: waits for so many seconds, by default until it is closed at most.
    """

    def __init__(
        self,
        address: str,
        *,
        open_it: Callable[[str], cv2.VideoCapture | None] | None = None,
        pauses_s: tuple[float, float] = PAUSE_S,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.name = redacted(address)
        self._address = address
        self._open_it = _open if open_it is None else open_it
        self._pauses_s = pauses_s
        self._failures = Failures(log, LOG_INTERVAL_S)
        self._frames: deque[Frame] = deque(maxlen=MAX_QUEUE)
        self._arrived = threading.Condition()
        self._closed = threading.Event()
        self._wait = self._closed.wait if wait is None else wait
        self._tried = threading.Event()
        self._opened = False
        self.fps: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"camera {self.name}", daemon=True)
        self._thread.start()

    def wait_until_open(self) -> None:
        """Wait until the first attempt is over. Raises CameraMissing if the camera has not answered."""
        self._tried.wait(3 * TIMEOUT_S)
        if not self._opened:
            raise CameraMissing(
                f"{self.name} gives no video: check the address with ffprobe or VLC, the name and password in it, and whether "
                "the camera is reachable from here"
            )

    def take(self) -> Frame:
        """Wait for the next image. Raises BadShot if none comes for STOPPED_S; the stream is being opened again then."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._frames, STOPPED_S):
                raise BadShot(f"{self.name} gave no image for {STOPPED_S:.0f} s and is connected again when it answers")
            return self._frames.popleft()

    def close(self) -> None:
        """End the thread; idempotent."""
        self._closed.set()
        self._thread.join(3 * TIMEOUT_S)

    def _run(self) -> None:
        pause_s, longest_s = self._pauses_s
        while not self._closed.is_set():
            video = self._open_it(self._address)
            if video is not None:
                fps = video.get(cv2.CAP_PROP_FPS)
                self.fps = fps if 1 <= fps <= MAX_FPS else None
                self._opened = True
            self._tried.set()
            if video is not None:
                if self._read(video):
                    pause_s = self._pauses_s[0]
                video.release()
                if not self._closed.is_set():
                    self._failures.add("ended", f"the stream of {self.name} has ended; it is opened again")
            self._wait(pause_s)
            pause_s = min(2 * pause_s, longest_s)

    def _read(self, video: cv2.VideoCapture) -> int:
        """Queue the images of a stream until it ends, and return how many there were."""
        count = 0
        while not self._closed.is_set() and (image := video.read()[1]) is not None:
            frame = _frame(np.asarray(image, np.uint8), time.monotonic_ns())
            with self._arrived:
                self._frames.append(frame)
                self._arrived.notify()
            count += 1
        return count


def _open(address: str) -> cv2.VideoCapture | None:
    if not is_utf8(address):
        return None
    timeout_ms = round(TIMEOUT_S * 1e3)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
    video = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
    if not video.isOpened():
        video.release()
        return None
    if int(video.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG"):
        video.set(cv2.CAP_PROP_FORMAT, -1)  # gives the JPEG itself
    return video


def _frame(image: np.ndarray, arrived_ns: int) -> Frame:
    if 1 in image.shape[:2]:  # not decoded: one row of bytes
        jpeg = image.tobytes()
        return Frame(arrived_ns, lambda at_ns: EyeImage(at_ns, jpeg=jpeg), size=len(jpeg))
    return Frame(arrived_ns, lambda at_ns: EyeImage(at_ns, pixels=image), size=image.nbytes)
