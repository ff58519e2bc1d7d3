"""How the rig itself is: the charge of its battery and its temperature, as the kernel tells them under /sys/class.

Not told of is what no driver speaks to: most power banks and many battery boards, a board without a thermal sensor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from stream.live.backfill_messages import MAX_CELSIUS, MIN_CELSIUS, Vitals

EVERY_S = 5.0
"""Read at most so often, however often it is asked for: some sensors hang on a slow bus."""


class Sensors:
    """The sensors of this machine. root: where the kernel tells of them. clock: seconds, monotonic."""

    def __init__(self, root: Path = Path("/sys/class"), clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._read_s = float("-inf")
        self._vitals = Vitals()

    def read(self) -> Vitals:
        """The battery with the least charge and the hottest sensor, at most EVERY_S old; from any thread."""
        now_s = self._clock()
        if now_s - self._read_s >= EVERY_S:
            self._vitals = Vitals(
                battery=min(self._charges(), default=None), temperature_c=max(self._temperatures(), default=None)
            )
            self._read_s = now_s
        return self._vitals

    def _charges(self) -> Iterator[float]:
        for supply in self._root.glob("power_supply/*"):
            is_ours = _word(supply / "scope") != "Device"  # else that of a mouse
            percent = _number(supply / "capacity")
            if is_ours and _word(supply / "type") == "Battery" and percent is not None and 0 <= percent <= 100:
                yield percent / 100

    def _temperatures(self) -> Iterator[float]:
        for zone in self._root.glob("thermal/thermal_zone*"):
            thousandths = _number(zone / "temp")
            if thousandths is not None and MIN_CELSIUS <= thousandths / 1000 <= MAX_CELSIUS:
                yield thousandths / 1000


def _word(path: Path) -> str:
    """What a file of the kernel says; nothing where it is not there, or its driver cannot tell now."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_word(path))
    except ValueError:
        return None
