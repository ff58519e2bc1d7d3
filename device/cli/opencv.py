"""Settings of OpenCV that hold for the whole process."""

from __future__ import annotations

import cv2


def configure_opencv() -> None:
    """Make OpenCV use one thread, and print no errors of its own.

    The codec is called from one place, and a pool of threads would only take the processor from a learner on the same machine.
    We report in one line what cannot be opened.
    """
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
