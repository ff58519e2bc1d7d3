"""Shows a person the progress of a command: a live line on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from stream.host.printing import printable

LIVE_S = 0.2
"""Seconds between two updates of the live line."""
PLAIN_S = 5.0
"""Seconds between two plain lines without a terminal."""


class Progress:
    """Shows progress, as a context manager. console: where to write; the standard error by default. clock: seconds, monotonic."""

    def __init__(
        self,
        console: Console | None = None,
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False, markup=False)
        self._live = None
        if self._console.is_terminal and not quiet:
            self._live = Live(console=self._console, transient=True, refresh_per_second=8)
        self._interval_s = LIVE_S if self._live else PLAIN_S
        self._quiet = quiet
        self._clock = clock
        self._updated_s = clock()

    def log(self, text: str) -> None:
        """Print a line that stays on the screen."""
        if not self._quiet:
            self._console.print(printable(text), soft_wrap=True, highlight=False, markup=False)

    def update(self, text: Callable[[], str]) -> bool:
        """Show the state if the last update is long enough ago, and return whether it was shown.

        text: called only if it is shown.
        """
        now_s = self._clock()
        if now_s - self._updated_s < self._interval_s:
            return False
        self._updated_s = now_s
        (self.show if self._live else self.log)(text())
        return True

    def show(self, text: str) -> None:
        """Replace the live line at once; without a terminal, do nothing."""
        if self._live:
            self._live.update(Text(printable(text), no_wrap=True, overflow="ellipsis"))

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live:
            self._live.stop()


def format_bytes(count: int) -> str:
    """Return a number of bytes in a unit that suits its size."""
    return f"{count / 1e9:.2f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"
