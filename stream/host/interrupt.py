"""Ctrl-C, heard from the first moment: imports nothing heavy, so that it can be asked for before everything else."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType


def stop_on_signals(said: str) -> threading.Event:
    """Is set by the first Ctrl-C or SIGTERM, which says `said` on a terminal; a second one ends the process at once."""
    stop = threading.Event()

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)
        if os.isatty(2):
            os.write(2, f"{said}; the same again ends at once\n".encode())  # print is not safe here

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return stop
