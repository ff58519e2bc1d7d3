"""Waiting in tests: for what must come, with a deadline that only a test that hangs reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT_S = 300.0
"""Long: the machine may be slow and busy, and its disk too. Nothing is judged by its speed, and what has come ends the wait."""
MAX_PAUSE_S = 0.05


def until(condition: Callable[[], object], said: Callable[[], object] = lambda: "") -> None:
    """Wait until the condition holds. said: what is shown if it never does.

    The pauses between two looks grow from a millisecond, so that looking takes little from what is waited for.
    """
    deadline_s, pause_s = time.monotonic() + WAIT_S, 0.001
    while not condition():
        assert time.monotonic() < deadline_s, f"it did not come to pass within {WAIT_S:.0f} s: {said()}"
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, MAX_PAUSE_S)
