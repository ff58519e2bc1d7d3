"""What a process tells the systemd that started it: that it is ready, alive, and how it does (the protocol of sd_notify(3)).

Without $NOTIFY_SOCKET nothing is said. The loop that must not hang says it itself: a thread beside it would go on when it hangs.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

TELL_EVERY_S = 5.0
"""How old a status line may be; more often only where the watchdog is less patient."""
MAX_STATUS = 500
"""Characters of it."""


class Supervisor:
    """One datagram a message, to the socket that `environ` names. clock: seconds, monotonic."""

    def __init__(self, environ: Mapping[str, str], clock: Callable[[], float]) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if name else None
        self._clock = clock
        self._every_s = min(TELL_EVERY_S, _watchdog_s(environ) / 2)  # half of it, as sd_watchdog_enabled(3) advises
        self._next_s = float("-inf")
        self._greeting = "READY=1\n"

    def alive(self, status: Callable[[], str]) -> None:
        """The loop went round: the first time it is ready by that; it feeds the watchdog and tells the status when it has to."""
        if self._socket is None or self._clock() < self._next_s:
            return
        self._next_s = self._clock() + self._every_s
        self._say(f"{self._greeting}WATCHDOG=1\nSTATUS={' '.join(status().split())[:MAX_STATUS]}")
        self._greeting = ""

    def stopping(self) -> None:
        """The loop has ended; what is left to write has until TimeoutStopSec."""
        self._say("STOPPING=1")

    def close(self) -> None:
        """Say nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _say(self, message: str) -> None:
        if self._socket is not None:
            with suppress(OSError):  # a systemd that does not listen must not stop a rig
                self._socket.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """How long systemd waits for a sign of life of this process, infinite where it does not."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    meant = environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
    return int(microseconds) / 1e6 if meant and microseconds.isdecimal() else float("inf")
