"""Ctrl-C, heard from the first moment: imports nothing heavy, so that it can be made before everything else."""

from __future__ import annotations

import signal
import time
from types import FrameType


class Stop:
    """The first Ctrl-C or SIGTERM asks for the end; a second one does not wait for it."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, signal.SIG_DFL)

    def sleep(self, seconds: float) -> None:
        """Sleep, but not on after a request."""
        end_s = time.monotonic() + seconds
        while not self.requested and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.1))
