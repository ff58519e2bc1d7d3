"""Charge of the rig's battery and its temperature, as the kernel reports them under /sys/class.

Without a driver the values are unknown: this is so for most power banks, many battery boards, and boards without a thermal
sensor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from stream.live.backfill_messages import MAX_CELSIUS, MIN_CELSIUS, Vitals

READ_INTERVAL_S = 5.0
"""The sensors are read at most this often, because some are connected by a slow bus."""


class Sensors:
    """The sensors of this machine. root: the folder where the kernel reports them. clock: monotonic seconds."""

    def __init__(self, root: Path = Path("/sys/class"), clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._read_s = float("-inf")
        self._vitals = Vitals()

    def read(self) -> Vitals:
        """Return the lowest charge of a battery (0 to 1) and the highest temperature (Celsius). Thread-safe.

        The values are at most READ_INTERVAL_S old.
        """
        now_s = self._clock()
        if now_s - self._read_s >= READ_INTERVAL_S:
            self._vitals = Vitals(
                battery=min(self._charges(), default=None), temperature_c=max(self._temperatures(), default=None)
            )
            self._read_s = now_s
        return self._vitals

    def _charges(self) -> Iterator[float]:
        for supply in self._root.glob("power_supply/*"):
            is_ours = _word(supply / "scope") != "Device"  # otherwise it may be the battery of a mouse
            percent = _number(supply / "capacity")
            if is_ours and _word(supply / "type") == "Battery" and percent is not None and 0 <= percent <= 100:
                yield percent / 100

    def _temperatures(self) -> Iterator[float]:
        for zone in self._root.glob("thermal/thermal_zone*"):
            thousandths = _number(zone / "temp")
            if thousandths is not None and MIN_CELSIUS <= thousandths / 1000 <= MAX_CELSIUS:
                yield thousandths / 1000


def _word(path: Path) -> str:
    """Return the text of a file of the kernel; empty if the file is missing, or its driver cannot answer now."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_word(path))
    except ValueError:
        return None
