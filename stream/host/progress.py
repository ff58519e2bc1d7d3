"""Tells a person how a command goes: a live line on a terminal, a plain one every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console

LIVE_S = 0.2
PLAIN_S = 5.0


class Progress:
    """Writes to standard error; a context manager. clock: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        console = Console(stderr=True, highlight=False, markup=False)
        self._console = console
        self._live = console.status("") if console.is_terminal else None
        self._interval_s = LIVE_S if self._live else PLAIN_S
        self._clock = clock
        self._told_s = clock()

    def say(self, text: str) -> None:
        """Tell now, and let it stand."""
        self._console.print(text, soft_wrap=True)

    def tick(self, text: Callable[[], str]) -> None:
        """Tell this, if it is time to."""
        now_s = self._clock()
        if now_s - self._told_s < self._interval_s:
            return
        self._told_s = now_s
        if self._live:
            self._live.update(text())
        else:
            self.say(text())

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()


def amount(count: int) -> str:
    """A number of bytes as a person reads it."""
    return f"{count / 1e9:.2f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"
