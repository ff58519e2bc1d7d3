"""Reports to systemd that a process is ready, alive, and what it does (the protocol of sd_notify(3)).

Without $NOTIFY_SOCKET nothing is sent. The loop that must not hang reports itself: a thread beside it would go on when it hangs.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

from stream.host.printing import printable

REPORT_INTERVAL_S = 5.0
"""Longest time between two reports; with a shorter watchdog timeout the reports are more frequent."""
MAX_STATUS_CHARS = 500
"""Longest status text, in characters."""


class Supervisor:
    """Sends reports to systemd, one datagram each, to the socket that $NOTIFY_SOCKET names; without it nothing is sent.

    environ: the environment variables. clock: seconds, monotonic.
    """

    def __init__(self, environ: Mapping[str, str], clock: Callable[[], float]) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if name else None
        self._clock = clock
        self._interval_s = min(REPORT_INTERVAL_S, _watchdog_s(environ) / 2)  # as sd_watchdog_enabled(3) advises
        self._next_s = float("-inf")
        self._ready = "READY=1\n"

    def alive(self, status: Callable[[], str]) -> None:
        """Report that the process is ready and that its loop is still running; call it in each round of the loop.

        Most calls send nothing: a report is sent once an interval. status: called only then; returns one line about the present
        work.
        """
        if self._socket is None or self._clock() < self._next_s:
            return
        self._next_s = self._clock() + self._interval_s
        self._send(f"{self._ready}WATCHDOG=1\nSTATUS={printable(' '.join(status().split()))[:MAX_STATUS_CHARS]}")
        self._ready = ""

    def stopping(self) -> None:
        """Report that the loop has ended. The process then has TimeoutStopSec to finish its work."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Close the socket; later reports are dropped."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is not None:
            with suppress(OSError):  # a systemd that does not listen must not stop a rig
                self._socket.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """Return the seconds without a report after which systemd restarts this process; inf without a watchdog."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    meant = environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
    return int(microseconds) / 1e6 if meant and microseconds.isdecimal() else float("inf")
