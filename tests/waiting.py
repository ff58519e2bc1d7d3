"""Waiting in tests: for what must come, with a deadline that only a test that hangs reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT_S = 300.0
"""Long: the machine may be slow and busy, and its disk too. Nothing is judged by its speed, and what has come ends the wait."""
PAUSES_S = (0.001, 0.25)


def until(condition: Callable[[], object], said: Callable[[], object] = lambda: "") -> None:
    """Wait until the condition holds. said: what is shown if it never does.

    A pause between two looks is a twentieth of the wait so far, so that looking takes little from what is waited for.
    """
    began_s = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - began_s
        assert waited_s < WAIT_S, f"it did not come to pass within {WAIT_S:.0f} s: {said()}"
        time.sleep(min(max(PAUSES_S[0], waited_s / 20), PAUSES_S[1]))
