"""Gathers the rows of signals between two kept pairs: bounded, thinned evenly, and without what is not valid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream.signals.signal import (
    MAX_BYTES,
    MAX_ROWS,
    MAX_SIGNALS,
    WINDOW_NS,
    BadSignal,
    Signal,
    check_form,
    in_window,
    size_bytes,
)

HELD_ROWS = 512
"""Rows of a signal that are held for the next pair; of more, every second, fourth, eighth ... one is."""
_FAR = f"times more than {WINDOW_NS // (3600 * 10**9)} hours away from their pair"


@dataclass(slots=True)
class _Rows:
    """The rows of one signal since the last pair, every `stride`-th of `seen`."""

    unit: str
    width: int
    seen: int = 0
    stride: int = 1
    newest_ns: int = 0
    held: list[Signal] = field(default_factory=list)

    def add(self, signal: Signal, max_rows: int) -> None:
        """Add rows, at least one, that are not earlier than `newest_ns`."""
        if len(part := signal[-self.seen % self.stride :: self.stride]):
            self.held.append(part)
        self.seen += len(signal)
        self.newest_ns = int(signal.times_ns[-1])
        while sum(map(len, self.held)) > max_rows:
            self.held = [self.all()[::2]]
            self.stride *= 2

    def all(self) -> Signal:
        """Return all rows that are held."""
        if len(self.held) == 1:
            return self.held[0]
        values, times_ns = ([getattr(one, name) for one in self.held] for name in ("values", "times_ns"))
        return Signal(np.concatenate(values), np.concatenate(times_ns), self.unit)


class Gathering:
    """Takes signals as they come, and gives what a pair may have.

    refuse: called for each signal of which something is left out because it is not valid; everything else is kept.
    max_rows: that are held of each signal.
    """

    def __init__(self, refuse: Callable[[BadSignal], None], *, max_rows: int = HELD_ROWS) -> None:
        self._refuse = refuse
        self._max_rows = max_rows
        self._rows: dict[str, _Rows] = {}
        self.thinned = 0
        """Valid rows that were left out so far, because a pair cannot have so many."""

    def add(self, signals: Mapping[str, Signal], now_ns: int) -> None:
        """Add what was measured since the last call.

        now_ns: about the time of the newest rows; one that is a day away from it has another clock, and holds up no row after it.
        """
        beyond = 0
        for name, signal in signals.items():
            try:
                if not isinstance(signal, Signal):
                    raise BadSignal("form", f"{name!r:.64} is no Signal")
                if not len(signal):
                    continue
                check_form(name, signal)
                if name not in self._rows:
                    if len(self._rows) >= MAX_SIGNALS:
                        beyond += 1
                        continue
                    self._rows[name] = _Rows(signal.unit, signal.width)
                self._add(name, self._rows[name], signal, now_ns)
            except BadSignal as error:
                self._refuse(error)
        if beyond:
            text = f"{beyond} signals are beyond the {MAX_SIGNALS} that a rig can have: they are left out"
            self._refuse(BadSignal("names", text))

    def take(self, pair_ns: int, *, upto_ns: int | None = None) -> dict[str, Signal]:
        """Return the signals of a pair that was taken at `pair_ns`, and begin again.

        upto_ns: rows of a later time stay for the next pair; None: all rows are given.
        """
        taken = {name: self._take(name, rows, pair_ns, upto_ns) for name, rows in self._rows.items() if rows.held}
        given = {name: (seen, signal) for name, (seen, signal) in taken.items() if len(signal)}
        most = MAX_ROWS
        while sum(size_bytes(min(most, len(one)), one.width) for _, one in given.values()) > MAX_BYTES:
            most //= 2
        thin = {name: one[_evenly(len(one), most)] for name, (_, one) in given.items()}
        self.thinned += sum(seen - len(thin[name]) for name, (seen, _) in given.items())
        return thin

    def _add(self, name: str, rows: _Rows, signal: Signal, now_ns: int) -> None:
        """Add the valid rows of a signal. Raises BadSignal if some are not, after the others were added."""
        if (signal.width, signal.unit) != (rows.width, rows.unit):
            now, before = (f"{one.width} wide{one.unit and f' in {one.unit}'}" for one in (signal, rows))
            raise BadSignal("changed", f"{name} is {now} now and was {before}: its new rows are left out", name)
        finite = np.asarray(np.isfinite(signal.values).all(axis=1))
        near = in_window(signal, now_ns)
        usable = finite & near
        times_ns = np.where(usable, signal.times_ns, 0)
        forward = times_ns >= np.maximum.accumulate(np.maximum(times_ns, rows.newest_ns))
        valid = usable & forward
        if valid.any():
            rows.add(signal[valid], self._max_rows)
        if not finite.all():
            raise _left_out("finite", "numbers that are not finite", name, finite)
        if not near.all():
            raise _left_out("times", _FAR, name, near)
        if not valid.all():
            raise _left_out("times", "times that run back", name, valid)

    def _take(self, name: str, rows: _Rows, pair_ns: int, upto_ns: int | None) -> tuple[int, Signal]:
        """Return the rows of a signal for a pair, and how many there were before they were thinned."""
        every = rows.all()
        end = len(every) if upto_ns is None else int(np.searchsorted(every.times_ns, upto_ns, side="right"))
        seen = rows.seen - (len(every) - end) * rows.stride
        rest = every[end:]
        self.thinned += (rows.stride - 1) * len(rest)
        rows.held, rows.seen, rows.stride = [rest] if len(rest) else [], len(rest), 1
        rows.newest_ns = int(rest.times_ns[-1]) if len(rest) else 0
        now = every[:end]
        near = in_window(now, pair_ns)
        if not near.all():
            self._refuse(_left_out("times", _FAR, name, near))
        return seen - int((~near).sum()), now[near]


def _left_out(reason: str, what: str, name: str, is_valid: NDArray[np.bool_]) -> BadSignal:
    """Return the error of a signal of which some rows are not valid, bool [rows]. what: these rows have."""
    return BadSignal(
        reason, f"{name} has {what} in {int((~is_valid).sum())} of {len(is_valid)} rows, which are left out", name
    )


def _evenly(count: int, most: int) -> NDArray[np.intp]:
    """Return at most `most` indices below `count`, evenly spread, the first and the last among them."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.intp)
