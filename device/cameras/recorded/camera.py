"""A recording that is played as a camera.

The capture times of its shots are those of the recording, moved so that the first one is at the start that the settings give.
The same files then have the same times, and dedupe makes the same decisions, at whatever speed they are played.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from device.camera import BadShot, CameraError, CameraSettings, Shot, with_equal_channels
from stream.image import Shape

FOLDER_FPS = 10.0
"""Rate in Hz of a recording without a rate of its own; the same as KITTI's."""
MAX_LOOKS = 1000
"""So many shots are looked at to find one that can be read."""

Play = Callable[[], Iterator[Shot | BadShot]]
"""Plays a recording once from its beginning, with the recording's own times in nanoseconds."""


class RecordedCamera:
    """Plays a recording as a camera, once, several times or endlessly.

    The constructor checks the first readable shot, so that a recording that cannot be used is refused before anything is sent; it
    raises CameraError. name: for messages. fps: the recording's own rate in Hz, if it has one.
    """

    def __init__(self, name: str, play: Play, settings: CameraSettings, *, fps: float | None = None) -> None:
        self.fps = fps
        self._play = play
        self._settings = settings
        self._period_ns = round(1e9 / (fps or settings.fps or FOLDER_FPS))
        self._begin_ns = self._check_first(name)

    def __iter__(self) -> Iterator[Shot | BadShot]:
        """Yield shots; time goes on when the recording begins again."""
        begin_ns = time.time_ns() if self._settings.start_ns is None else self._settings.start_ns
        repeat = self._settings.repeat
        for _ in itertools.count() if repeat is True else range(max(1, repeat)):
            end_ns = begin_ns
            for shot in self._play():
                if isinstance(shot, BadShot):
                    yield shot
                    continue
                moved = _moved(shot, begin_ns - self._begin_ns)
                end_ns = max(end_ns, moved.left.captured_ns, moved.right.captured_ns)
                yield moved
            begin_ns = end_ns + self._period_ns

    def close(self) -> None:
        """Do nothing: only a running iteration holds files, and it closes them itself."""

    def _check_first(self, name: str) -> int:
        """Return the time at which the recording begins. Raises CameraError unless a shot can be read, with the reason."""
        reason, begin_ns, shots = "it is empty", None, self._play()
        for _, shot in zip(range(MAX_LOOKS), shots, strict=False):
            try:
                if isinstance(shot, BadShot):
                    raise shot
                begin_ns = min(shot.left.captured_ns, shot.right.captured_ns) if begin_ns is None else begin_ns
                equal = with_equal_channels(shot)
                left, right = equal.left.shape(), equal.right.shape()
            except BadShot as bad:
                reason = str(bad) if reason == "it is empty" else reason
                continue
            if left != right:
                raise CameraError(
                    f"{name}: left is {_format_shape(left)} and right is {_format_shape(right)}; both eyes need one size: "
                    "crop or scale one of them first"
                )
            return begin_ns
        raise CameraError(f"{name}: it holds no readable pair: {reason}")


def _moved(shot: Shot, by_ns: int) -> Shot:
    left, right = (replace(eye, captured_ns=eye.captured_ns + by_ns) for eye in (shot.left, shot.right))
    return replace(shot, left=left, right=right)


def _format_shape(shape: Shape) -> str:
    return f"{shape[1]}x{shape[0]} {'colour' if shape[2] == 3 else 'grey'}"
